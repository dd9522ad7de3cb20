"""New tokens per CPU-second: the `transformers` agent beside plain `generate`, in one run.

    python -m trialgym.benchmarks.generation [--json] [--device cuda]

Both sample from the same random-weight model (Qwen3 architecture, about 4 M parameters) at
temperature 1, on the same prompts. Plain `generate` reads the whole history again at each turn, as
any engine without memory does; the agent keeps each episode's keys and values. The agent's time
includes tokenising, parsing and the log-probabilities that `generate` does not give. Sides take
turns and each counts its fastest round. CPU time is counted on a CPU, and wall time on a GPU.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trialgym.core import ActionSpec
from trialgym.policy import Reply, Request
from trialgym.records import Turn
from trialgym.registry import find

VOCABULARY = 4096


@dataclass(frozen=True, slots=True)
class Workload:
    """Episodes that run side by side."""

    name: str
    episodes: int
    turns: int
    first: int
    """Characters (each a token) of the first observation."""
    later: int
    """Characters of each further observation."""
    new: int
    """Tokens of each reply."""


WORKLOADS = (
    Workload("multi-turn", episodes=32, turns=10, first=200, later=40, new=12),
    Workload("single-turn", episodes=32, turns=1, first=254, later=0, new=64),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One side's speed on one workload."""

    workload: str
    engine: str
    new_tokens: int
    seconds: float
    tokens_per_second: float
    ratio: float
    """Over plain `generate` with its default cache."""


def save_model(directory: Path) -> None:
    """Write a random model, and a tokenizer that makes each byte a token."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    filler = [f"<{index}>" for index in range(VOCABULARY - len(alphabet) - 1)]
    words = {word: index for index, word in enumerate([*alphabet, *filler])}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
    ).save_pretrained(directory)
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, head_dim=64, max_position_embeddings=2048,
        tie_word_embeddings=True, eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).save_pretrained(directory)


def observations(work: Workload) -> list[list[str]]:
    """Give each episode's observations."""
    chance = random.Random(0)
    sizes = [work.first] + [work.later] * (work.turns - 1)
    letters = "abcdefgh jklmn"
    return [
        # Lengths differ, as real ones do: that is what a ragged cache is for.
        ["".join(chance.choices(letters, k=max(1, chance.randint(s // 2, s)))) for s in sizes]
        for _ in range(work.episodes)
    ]


def run_agent(policy: Any, work: Workload, seen: Sequence[Sequence[str]]) -> list[list[Reply]]:
    """Play every episode with the agent."""
    turns: list[list[Turn]] = [[] for _ in seen]
    replies: list[list[Reply]] = [[] for _ in seen]
    spec = ActionSpec("")
    for step in range(work.turns):
        answers = policy.act(
            [
                Request(str(i), "", texts[step], tuple(turns[i]), spec, 1000 * i + step, str)
                for i, texts in enumerate(seen)
            ]
        )
        for i, reply in enumerate(answers):
            replies[i].append(reply)
            said = {"prompt_ids": reply.prompt_ids, "token_ids": reply.token_ids}
            turns[i].append(Turn(seen[i][step], reply.action or "", reply.text, **said))
    for i in range(len(seen)):
        policy.forget(str(i))
    return replies


def run_generate(
    policy: Any, work: Workload, prompts: Sequence[Sequence[Sequence[int]]], **options: Any
) -> int:
    """Play the same prompts with `generate`; give the number of new tokens."""
    import torch

    rows: list[list[int]] = [[] for _ in prompts]
    count = 0
    for step in range(work.turns):
        for row, pieces in zip(rows, prompts, strict=True):
            row += pieces[step]
        width = max(map(len, rows))
        pad = VOCABULARY - 1
        ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        with torch.inference_mode():
            out = policy.model.generate(
                ids.to(policy.model.device),
                attention_mask=mask.to(policy.model.device),
                do_sample=True,
                top_k=0,
                max_new_tokens=work.new,
                min_new_tokens=work.new,
                **options,
            )
        for row, line in zip(rows, out[:, width:].tolist(), strict=True):
            row += line
            count += len(line)
    return count


def measure(device: str | None, rounds: int) -> list[Row]:
    """Run every workload on every side."""
    table: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        save_model(Path(directory))
        for work in WORKLOADS:
            policy = find("agent", "transformers")(
                directory, format="act", system=False, temperature=1.0, seed=0,
                max_new_tokens=work.new, device=device, batch_slots=work.episodes,
            )  # fmt: skip
            table += _compare(policy, work, rounds)
    return table


def _compare(policy: Any, work: Workload, rounds: int) -> list[Row]:
    seen = observations(work)
    warm = run_agent(policy, work, seen)
    prompts = [[reply.prompt_ids for reply in replies] for replies in warm]
    sides: dict[str, Callable[[], int]] = {
        "generate": lambda: run_generate(policy, work, prompts),
        "generate, static cache": lambda: run_generate(
            policy, work, prompts, cache_implementation="static", disable_compile=True
        ),
        "transformers agent": lambda: sum(
            len(reply.token_ids) for row in run_agent(policy, work, seen) for reply in row
        ),
    }
    clock = time.process_time if policy.model.device.type == "cpu" else time.perf_counter
    best: dict[str, tuple[float, int, float]] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            started = clock()
            tokens = side()
            seconds = clock() - started
            best[name] = max(best.get(name, (0.0, 0, 0.0)), (tokens / seconds, tokens, seconds))
    plain = best["generate"][0]
    return [
        Row(work.name, name, tokens, round(seconds, 3), round(rate, 1), round(rate / plain, 2))
        for name, (rate, tokens, seconds) in best.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--device", help="such as cuda; the default takes a GPU where there is one")
    parser.add_argument("--rounds", type=int, default=3, help="rounds a side; the fastest counts")
    options = parser.parse_args()
    # One thread, so that CPU seconds count work and not waiting; read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for row in measure(options.device, options.rounds):
        if options.json:
            print(json.dumps(asdict(row)))
        else:
            print(
                f"{row.workload:12} {row.engine:24} {row.new_tokens:6} new tokens "
                f"{row.seconds:8.2f} s {row.tokens_per_second:8.0f} tokens/s {row.ratio:6.2f} x"
            )


if __name__ == "__main__":
    main()
