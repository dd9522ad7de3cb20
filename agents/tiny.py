"""The `tiny` agent: a small Llama-architecture model made from scratch for one environment.

Model and tokenizer are saved in Hugging Face's format, and from there on it is a `Language` like
any other: the code that trains it trains a 7B model.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from trialgym.core import seed_of
from trialgym.errors import BadInput
from trialgym.registry import make

from .language import Language
from .torch_first import torch, transformers
from .vocabulary import learn

EPISODES = 200
"""Expert episodes whose texts the tokenizer is learned from."""
CONTEXT = 1024


def build(
    texts: Iterable[str],
    directory: Path,
    *,
    vocabulary: int = 1024,
    hidden: int = 128,
    layers: int = 3,
    heads: int = 4,
    context: int = CONTEXT,
    seed: int = 0,
) -> Path:
    """Make a model with random weights and a tokenizer learned from `texts`.

    Args:
        texts: observations and actions of the environment.
        directory: where both are saved.
        vocabulary: most tokens.
        hidden: width of the model.
        layers: its depth.
        heads: attention heads; must divide the width.
        context: longest row in tokens.
        seed: of the weights.
    """
    if hidden % heads:
        raise BadInput(f"width {hidden} with {heads} heads; wanted a multiple; change one of them")
    tokenizer = learn(texts, vocabulary)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # The weights are drawn from torch's global generator: lend it a seed and give it back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("tiny", seed))
        model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return Path(directory)


def expert_texts(environment: str, episodes: int = EPISODES) -> Iterable[str]:
    """Walk the environment's first training tasks with its expert; yield what is seen and done."""
    env = make(environment)
    size = env.tasks.size(env.tasks.first_split)
    for task in env.tasks.ids(env.tasks.first_split, min(episodes, size or episodes)):
        observation, _ = env.reset(options={"task": task})
        yield observation
        over = False
        while not over:
            action = env.expert()
            yield action
            observation, _, ended, truncated, _ = env.step(action)
            yield observation
            over = ended or truncated


class Tiny(Language):
    """A tiny language model: loaded from `model`, or made for `environment`.

    Args:
        model: directory of a saved model; where it holds none yet, one is built there.
        environment: registry id of the environment whose texts the tokenizer is learned from.
        vocabulary: most tokens of a new model.
        hidden: width of a new model.
        layers: depth of a new model.
        heads: attention heads of a new model.
        seed: of a new model's weights, and of the policy.
        temperature: 0 takes the likeliest token.
        top_p: probability mass that sampling keeps.
        restricted: whether replies are one of the admissible actions.
        remind: whether every observation repeats the instruction.
        device: where the model lives.
        batch_slots: episodes whose keys and values are kept between turns.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        environment: str | None = None,
        vocabulary: int = 1024,
        hidden: int = 128,
        layers: int = 3,
        heads: int = 4,
        seed: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
        restricted: bool | None = None,
        remind: bool | None = None,
        device: str | None = None,
        batch_slots: int = 64,
    ) -> None:
        scratch = None
        if model is None:
            scratch = tempfile.TemporaryDirectory(prefix="tiny-")
            model = scratch.name
        if not (Path(model) / "config.json").is_file():
            if environment is None:
                raise BadInput(
                    f"no model in `{model}` and no environment; wanted one of them; pass "
                    '`environment="trialgym/Household-v0"` to make a model for it'
                )
            build(
                expert_texts(environment),
                Path(model),
                vocabulary=vocabulary,
                hidden=hidden,
                layers=layers,
                heads=heads,
                seed=seed,
            )
        super().__init__(
            model,
            format="act",
            system=False,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            restricted=restricted,
            remind=remind,
            device=device,
            batch_slots=batch_slots,
        )
        if scratch is not None:
            self._info = replace(self._info, name=f"tiny:{environment}")
            scratch.cleanup()
