"""Training a language model: what is trained, against which reference, and that a kill is harmless.

The subject is a real two-layer Llama with a word-level tokenizer, small enough for exact oracles.
"""

import copy
import gc
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the `train` extra is not installed")
pytest.importorskip("trl", reason="the `train` extra is not installed")

from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402
from trl import DPOTrainer  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from trialgym.algorithms.language import _row, clone_behaviour, prefer  # noqa: E402
from trialgym.algorithms.language_settings import FineTuning, Preference, Training  # noqa: E402
from trialgym.algorithms.language_trainers import (  # noqa: E402
    PairCollator,
    SimilarLengths,
    score,
    token_log_probs,
)
from trialgym.algorithms.pairs import Pair  # noqa: E402
from trialgym.errors import BadInput, RunConflict  # noqa: E402
from trialgym.policy import Encoding  # noqa: E402
from trialgym.records import PolicyInfo, StopReason, Trajectory, Turn  # noqa: E402

WORDS = ["<pad>", "<end>", "<user>", "<agent>", "the", "light", "is", "red", "green", "blue"]
WORDS += ["door", "open", "shut", "stop", "go", "wait", "now"]
RIGHT = {"red": "stop now", "green": "go", "blue": "wait"}
LN2 = math.log(2)
# PEFT asks transformers by a name that is to go.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(autouse=True, scope="module")
def few_objects_to_collect() -> Iterator[None]:
    """Set what is imported aside: each training collects garbage, and would walk it every time."""
    gc.freeze()
    yield
    gc.unfreeze()


class Words:
    """The part of a language policy that training asks for, over a toy model."""

    def __init__(self, seed: int = 0, restricted: Sequence[str] = (), lora: bool = False) -> None:
        vocabulary = {word: index for index, word in enumerate(WORDS)}
        core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=core, pad_token="<pad>", eos_token="<end>"
        )
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            attention_dropout=0.1,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: Any = LlamaForCausalLM(config).eval()
        if lora:
            import peft

            adapter = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.model = peft.get_peft_model(self.model, adapter).eval()
        self.restricted = [self.ids(f"{action} <end>") for action in restricted]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, trajectory: Trajectory) -> Encoding:
        ids: list[int] = []
        turn: list[int] = []
        loss: list[bool] = []
        allowed: dict[int, tuple[int, ...]] = {}
        for index, one in enumerate(trajectory.turns):
            given = self.ids(f"<user> {one.observation} <agent>")
            reply = self.ids(f"{one.action} <end>")
            for place in range(len(reply)):
                options = {a[place] for a in self.restricted if a[:place] == reply[:place]}
                if options:
                    allowed[len(ids) + len(given) + place] = tuple(sorted(options))
            ids += given + reply
            turn += [-1] * len(given) + [index] * len(reply)
            loss += [False] * len(given) + [one.loss] * len(reply)
        return Encoding(tuple(ids), tuple(turn), tuple(loss), allowed)

    def log_prob(self, trajectory: Trajectory, start: int = 0, of: str = "replies") -> float:
        """Sum log-probabilities the slow way: token by token, from plain scores."""
        row = self.encode(trajectory)
        with torch.no_grad():
            scores = self.model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        return sum(
            scores[place - 1, row.ids[place]].item()
            for place in range(1, len(row.ids))
            if (row.turn[place] >= start if of == "replies" else row.turn[place] < 0)
        )


def episode(lights: Sequence[str], actions: Sequence[str], score: float = 1.0) -> Trajectory:
    turns = tuple(
        Turn(observation=f"the light is {light}", action=action)
        for light, action in zip(lights, actions, strict=True)
    )
    return Trajectory(
        env="lights",
        task_id="lights/train/" + "-".join(lights),
        split="train",
        instruction="obey the light",
        turns=turns,
        final_observation="the door is open",
        score=score,
        success=score == 1.0,
        stop=StopReason.SUCCESS if score == 1.0 else StopReason.FAILURE,
        policy=PolicyInfo("words"),
    )


def obeying(count: int, seed: int) -> list[Trajectory]:
    chance = random.Random(seed)
    tasks = [[chance.choice(list(RIGHT)) for _ in range(3)] for _ in range(count)]
    return [episode(lights, [RIGHT[light] for light in lights]) for lights in tasks]


def pairs_of(count: int, seed: int = 5) -> list[Pair]:
    """Set the right actions against ones with the last action wrong."""
    made = []
    for good in obeying(count, seed):
        lights = [turn.observation.split()[-1] for turn in good.turns]
        wrong = "wait" if RIGHT[lights[-1]] != "wait" else "go"
        bad = episode(lights, [*good.actions[:-1], wrong], 0.0)
        made.append(Pair(good.task_id, good, bad))
    return made


def habits(count: int, seed: int = 5) -> list[Pair]:
    """Set `go` against `wait` as the last action, whatever the light."""
    made = []
    for right in obeying(count, seed):
        lights = [turn.observation.split()[-1] for turn in right.turns]
        sides = [episode(lights, [*right.actions[:-1], last]) for last in ("go", "wait")]
        made.append(Pair(right.task_id, *sides))
    return made


def weights(policy: Words) -> dict[str, Any]:
    return {name: value.clone() for name, value in policy.model.state_dict().items()}


def equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


CLONE = FineTuning(learning_rate=2e-2, epochs=3, batch=4, schedule="constant")
ONE_STEP = Preference(learning_rate=1e-2, epochs=1, batch=8)
PREFER = Preference(learning_rate=1e-3, epochs=3, batch=4)


# The score of a token.


def test_a_token_scores_as_softmax_says_and_only_over_what_was_allowed() -> None:
    torch.manual_seed(1)
    logits, ids = torch.randn(2, 3, 5), torch.tensor([[0, 1, 2], [3, 4, 0]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    places = torch.tensor([0, 1]), torch.tensor([1, 2])
    choices = torch.tensor([[1, 3, -1], [0, 2, 4]])
    found = token_log_probs(logits, ids, mask, places, choices)
    for row in range(2):
        for place in range(3):
            options = {(0, 1): [1, 3], (1, 2): [0, 2, 4]}.get((row, place), range(5))
            powers = [math.exp(logits[row, place, option]) for option in options]
            wanted = math.log(math.exp(logits[row, place, ids[row, place]]) / sum(powers))
            assert found[row, place].item() == pytest.approx(
                wanted if mask[row, place] else 0.0, abs=1e-6
            )


def test_no_gradient_reaches_the_scores_of_a_masked_or_forbidden_token() -> None:
    torch.manual_seed(2)
    logits = torch.randn(1, 4, 6, requires_grad=True)
    ids, mask = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 1, 0, 1]])
    places, choices = (torch.tensor([0]), torch.tensor([3])), torch.tensor([[3, 5]])
    token_log_probs(logits, ids, mask, places, choices).sum().backward()
    touched = logits.grad[0] != 0
    assert touched.any(-1).tolist() == [False, True, False, True]
    assert touched[1].all()
    assert touched[3].nonzero().flatten().tolist() == [3, 5]


def batch_of(policy: Words, pairs: Sequence[Pair]) -> dict[str, Any]:
    rows = [
        {
            "chosen": _row(policy.encode(pair.chosen), pair.start, 99),
            "rejected": _row(policy.encode(pair.rejected), pair.start, 99),
        }
        for pair in pairs
    ]
    return PairCollator(0)(rows)


def test_the_fused_head_and_our_own_sum_agree_in_value_and_gradient() -> None:
    free, bound = Words(), Words()
    # Everything is allowed everywhere: restricted in form, free in fact.
    everything = tuple(range(len(WORDS)))
    pairs = pairs_of(3)
    batch, other = batch_of(free, pairs), batch_of(bound, pairs)
    where = other["completion_mask"].nonzero()
    other |= {"restricted_rows": where[:, 0], "restricted_places": where[:, 1]}
    other["choices"] = torch.tensor([everything] * len(where))
    add_fused_lm_head(free.model)
    ours, theirs = score(bound.model, other), score(free.model, batch)
    assert torch.allclose(ours, theirs, atol=1e-5)
    wanted = [bound.log_prob(pair.chosen) for pair in pairs]
    wanted += [bound.log_prob(pair.rejected) for pair in pairs]
    assert theirs.sum(1).tolist() == pytest.approx(wanted, abs=1e-4)
    ours.sum().backward()
    theirs.sum().backward()
    for left, right in zip(free.model.parameters(), bound.model.parameters(), strict=True):
        assert torch.allclose(left.grad, right.grad, atol=1e-4)


def test_the_gradient_of_the_models_scores_is_zero_wherever_the_next_token_is_masked() -> None:
    policy = Words(restricted=["stop now", "go", "wait"])
    batch = batch_of(policy, pairs_of(3))
    kept: list[Any] = []

    def keep(_module: Any, _given: Any, out: Any) -> None:
        out.retain_grad()
        kept.append(out)

    policy.model.lm_head.register_forward_hook(keep)
    score(policy.model, batch).sum().backward()
    moved = (kept[0].grad != 0).any(-1)
    trained = batch["completion_mask"].bool()
    assert not moved[:, -1].any()
    # A reply's end is the only thing allowed after it, so that it is trained and has no gradient.
    assert not (moved[:, :-1] & ~trained[:, 1:]).any()
    assert moved.any()


# What is trained.


def test_nothing_outside_a_reply_is_trained_and_every_reply_ends() -> None:
    policy = Words()
    trajectory = obeying(1, 3)[0]
    row = _row(policy.encode(trajectory), 0, 99)
    spans, last = [], 0
    for token, kept in zip(row["ids"], row["mask"], strict=True):
        if kept and not last:
            spans.append("")
        if kept:
            spans[-1] += WORDS[token] + " "
        last = kept
    assert [span.strip() for span in spans] == [f"{a} <end>" for a in trajectory.actions]


def test_a_pair_is_trained_from_its_start_and_a_turn_without_loss_never() -> None:
    policy = Words()
    (pair,) = pairs_of(1)
    silent = replace(pair.chosen.turns[1], loss=False)
    row = policy.encode(
        replace(pair.chosen, turns=(pair.chosen.turns[0], silent, pair.chosen.turns[2]))
    )
    assert {t for t, m in zip(row.turn, _row(row, 0, 99)["mask"], strict=False) if m} == {0, 2}
    assert {t for t, m in zip(row.turn, _row(row, 1, 99)["mask"], strict=False) if m} == {2}
    assert _row(row, 3, 99) == "masked"


@pytest.mark.parametrize("start", [0, 2])
def test_the_log_probabilities_of_training_equal_a_manual_sum(start: int, tmp_path: Path) -> None:
    policy = Words()
    pairs = [replace(pair, start=start) for pair in pairs_of(4)]
    wanted = [
        sum(policy.log_prob(side, start) for side in sides) / len(sides)
        for sides in ([p.chosen for p in pairs], [p.rejected for p in pairs])
    ]
    (row,) = prefer(policy, pairs, ONE_STEP, tmp_path).metrics
    assert [row["chosen_log_prob"], row["rejected_log_prob"]] == pytest.approx(wanted, abs=1e-4)


def test_rows_too_long_or_without_a_token_to_train_are_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Words()
    short, long = episode(["red"], ["stop now"]), obeying(1, 3)[0]
    mute = replace(short, turns=(replace(short.turns[0], loss=False),))
    limit = len(policy.encode(short).ids)
    config = replace(CLONE, max_length=limit)
    with caplog.at_level(logging.WARNING):
        report = clone_behaviour(policy, [short, long, mute, long], config, tmp_path)
    assert report.rows == 1
    assert report.details == {"too_long": 2, "masked": 1, "outside": 0}
    assert "1 trajectories kept, 3 dropped" in caplog.text
    pair = Pair("lights", short, long)
    with pytest.raises(BadInput, match=r"no pairs to train on: 1 longer than max_length"):
        prefer(policy, [pair], replace(ONE_STEP, max_length=limit), tmp_path)


def test_a_row_that_restricted_decoding_would_not_give_is_dropped(tmp_path: Path) -> None:
    policy = Words(restricted=["stop now", "go", "wait"])
    good, bad = episode(["red"], ["stop now"]), episode(["red"], ["open"], 0.0)
    pairs = [Pair("lights", good, bad), *pairs_of(2)]
    report = prefer(policy, pairs, ONE_STEP, tmp_path)
    assert (report.rows, report.details["outside"]) == (2, 1)


# Against which reference.


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("restricted", [(), ("stop now", "go", "wait")], ids=["free", "restricted"])
def test_every_round_begins_at_the_policy_that_explored(
    rank: int, restricted: tuple[str, ...], tmp_path: Path
) -> None:
    policy = Words(restricted=restricted)
    clone_behaviour(policy, obeying(8, 1), replace(CLONE, lora_rank=rank), tmp_path / "clone")
    for number in range(2):
        before = weights(policy)
        config = replace(ONE_STEP, lora_rank=rank)
        (row,) = prefer(policy, pairs_of(8, number), config, tmp_path / str(number)).metrics
        assert row["dpo_loss"] == pytest.approx(LN2, abs=1e-5)
        assert row["loss"] == pytest.approx(LN2, abs=1e-5)
        assert row["margin"] == pytest.approx(0.0, abs=1e-5)
        assert not equal(before, weights(policy))


def test_an_adapter_that_the_policy_came_with_is_trained_kept_and_its_own_reference(
    tmp_path: Path,
) -> None:
    policy = Words(lora=True)
    names = list(policy.model.state_dict())
    base = {n: w.clone() for n, w in policy.model.state_dict().items() if "lora" not in n}
    clone_behaviour(policy, obeying(8, 1), CLONE, tmp_path / "clone")
    for number in range(2):
        (row,) = prefer(policy, pairs_of(8, number), ONE_STEP, tmp_path / str(number)).metrics
        assert row["dpo_loss"] == pytest.approx(LN2, abs=1e-5)
        assert list(policy.model.state_dict()) == names
    assert list(policy.model.peft_config) == ["default"]
    assert equal(base, {n: w for n, w in weights(policy).items() if "lora" not in n})
    with policy.model.disable_adapter():
        plain = policy.log_prob(pairs_of(1)[0].chosen)
    assert abs(policy.log_prob(pairs_of(1)[0].chosen) - plain) > 0.1


def test_the_trainers_own_masks_losses_and_references_are_never_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_given: Any, **_named: Any) -> None:
        raise AssertionError("observations would be trained, or the reference would be another")

    for name in ("_prepare_dataset", "_compute_loss", "compute_ref_log_probs"):
        monkeypatch.setattr(DPOTrainer, name, refuse)
    monkeypatch.setattr(DPOTrainer, "_precompute_ref_logps", refuse)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", refuse)
    assert prefer(Words(), pairs_of(4), ONE_STEP, tmp_path).rows == 4


# What training does.


def test_cloning_makes_unseen_right_replies_likelier(tmp_path: Path) -> None:
    policy = Words()
    unseen = obeying(10, 99)
    before = sum(map(policy.log_prob, unseen))
    config = replace(CLONE, epochs=12, schedule="cosine")
    report = clone_behaviour(policy, obeying(24, 1), config, tmp_path)
    assert sum(map(policy.log_prob, unseen)) > before / 5
    assert report.metrics[-1]["loss"] < report.metrics[0]["loss"] / 4
    assert report.metrics[-1]["token_accuracy"] > 0.9
    assert [row["epoch"] for row in report.metrics] == list(range(1, 13))


def test_cloning_first_reports_the_mean_over_reply_tokens(tmp_path: Path) -> None:
    policy = Words()
    rows = obeying(4, 1)
    tokens = sum(sum(policy.encode(row).loss) for row in rows)
    wanted = -sum(map(policy.log_prob, rows)) / tokens
    report = clone_behaviour(policy, rows, replace(CLONE, epochs=1, warmup=0), tmp_path)
    assert report.metrics[0]["loss"] == pytest.approx(wanted, abs=1e-5)
    assert (report.steps, report.tokens) == (1, tokens)


def test_observations_are_learnt_by_their_weight_and_not_without(tmp_path: Path) -> None:
    rows = obeying(16, 1)
    seen = {}
    for weight in (0.0, 0.5):
        policy = Words()
        before = sum(policy.log_prob(row, of="given") for row in rows)
        config = replace(CLONE, epochs=6, observation_weight=weight)
        report = clone_behaviour(policy, rows, config, tmp_path / str(weight))
        seen[weight] = sum(policy.log_prob(row, of="given") for row in rows) - before
        accuracy = [row["token_accuracy"] for row in report.metrics]
        assert accuracy[-1] > accuracy[0]
    assert seen[0.5] > abs(before) / 2
    assert seen[0.5] > seen[0.0] + abs(before) / 4


def test_the_weighted_loss_is_the_sum_that_it_says(tmp_path: Path) -> None:
    policy = Words()
    rows = [replace(row, final_observation="") for row in obeying(3, 1)]
    replies = sum(sum(policy.encode(row).loss) for row in rows)
    wanted = -sum(policy.log_prob(r) + 0.5 * policy.log_prob(r, of="given") for r in rows) / replies
    config = replace(CLONE, epochs=1, observation_weight=0.5)
    (row,) = clone_behaviour(policy, rows, config, tmp_path).metrics
    assert row["loss"] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_batches_that_make_one_step_weigh_as_one_batch(weight: float, tmp_path: Path) -> None:
    rows = [*obeying(3, 1), episode(["red"], ["stop now"])]
    ends = []
    for batch, accumulate in ((4, 1), (1, 4)):
        policy = Words()
        config = replace(
            CLONE, epochs=1, batch=batch, accumulate=accumulate, observation_weight=weight
        )
        report = clone_behaviour(policy, rows, config, tmp_path / str(batch))
        assert report.steps == 1
        ends.append([*map(policy.log_prob, rows), report.metrics[0]["loss"]])
    assert ends[0] == pytest.approx(ends[1], abs=1e-3)


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_preferring_widens_the_margin_and_makes_the_chosen_act_likelier(
    rank: int, tmp_path: Path
) -> None:
    policy = Words(restricted=["stop now", "go", "wait"])
    pairs, unseen = habits(12), habits(6, 99)
    config = replace(PREFER, learning_rate=2e-2 if rank else 5e-3, lora_rank=rank, epochs=6)
    before = chosen_share(policy, unseen)
    report = prefer(policy, pairs, config, tmp_path)
    margins = [row["margin"] for row in report.metrics]
    assert margins == sorted(margins)
    assert report.metrics[-1]["accuracy"] == 1.0
    assert chosen_share(policy, unseen) > before + 0.2


def chosen_share(policy: Words, pairs: Sequence[Pair]) -> float:
    """Give the mean probability of the chosen last action against the rejected one."""
    gaps = [policy.log_prob(p.chosen, 2) - policy.log_prob(p.rejected, 2) for p in pairs]
    return sum(1 / (1 + math.exp(-gap)) for gap in gaps) / len(gaps)


@pytest.mark.parametrize("form", ["mean", "sum"])
def test_the_likelihood_term_is_what_it_says_and_holds_the_chosen_side_up(
    form: str, tmp_path: Path
) -> None:
    pairs = pairs_of(8)
    start = Words()
    lengths = [sum(start.encode(pair.chosen).loss) for pair in pairs]
    sums = [start.log_prob(pair.chosen) for pair in pairs]
    per_pair = sums if form == "sum" else [s / n for s, n in zip(sums, lengths, strict=True)]
    ends = {}
    for weight in (0.0, 1.0):
        policy = Words()
        config = replace(PREFER, batch=8, epochs=6, nll=weight, nll_form=form, warmup=0.0)
        report = prefer(policy, pairs, config, tmp_path / str(weight))
        wanted = LN2 - weight * sum(per_pair) / len(pairs)
        assert report.metrics[0]["loss"] == pytest.approx(wanted, abs=1e-4)
        assert report.metrics[0]["chosen_log_prob"] == pytest.approx(sum(sums) / 8, abs=1e-4)
        ends[weight] = sum(policy.log_prob(pair.chosen) for pair in pairs)
    assert ends[1.0] > ends[0.0]


def test_equal_seeds_give_equal_weights_and_others_do_not(tmp_path: Path) -> None:
    ends = []
    for seed in (0, 0, 1):
        policy = Words()
        clone_behaviour(policy, obeying(12, 1), replace(CLONE, seed=seed), tmp_path)
        ends.append(weights(policy))
    assert equal(ends[0], ends[1])
    assert not equal(ends[0], ends[2])


def test_batches_hold_rows_of_similar_length_each_once_and_in_an_order_of_the_seed() -> None:
    chance = random.Random(4)
    lengths = [chance.randint(1, 100) for _ in range(103)]
    orders = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        sampler = SimilarLengths(lengths, 8, seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(103))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]
    batches = [[lengths[row] for row in orders[0][at : at + 8]] for at in range(0, 103, 8)]
    assert sum(max(batch) * len(batch) for batch in batches) < 1.15 * sum(lengths)
    first = [batch[0] for batch in batches]
    assert first != sorted(first)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "adapter"])
def test_activations_computed_twice_give_the_same_weights(lora: bool, tmp_path: Path) -> None:
    ends = []
    for twice in (False, True):
        policy = Words(lora=lora)
        config = replace(ONE_STEP, warmup=0.0, gradient_checkpointing=twice)
        prefer(policy, pairs_of(4), config, tmp_path)
        ends.append(weights(policy))
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-6) for name in ends[0])


def test_updates_set_the_compute_whatever_the_epochs(tmp_path: Path) -> None:
    policy = Words()
    rows = [episode([light], ["go"]) for light in ("red", "green", "blue", "red")]
    config = replace(CLONE, batch=2, updates=5, epochs=1)
    report = clone_behaviour(policy, rows, config, tmp_path)
    assert (report.steps, report.tokens) == (5, 20)
    assert len(report.metrics) == 3


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_training_leaves_nothing_behind_but_weights(rank: int, tmp_path: Path) -> None:
    policy = Words()
    model, structure = policy.model, [name for name, _ in policy.model.named_modules()]
    random.seed(3)
    torch.manual_seed(3)
    wanted = random.random(), torch.rand(1).item()
    random.seed(3)
    torch.manual_seed(3)
    clone_behaviour(policy, obeying(4, 1), replace(CLONE, lora_rank=rank), tmp_path)
    prefer(policy, pairs_of(4), replace(ONE_STEP, lora_rank=rank), tmp_path)
    assert (random.random(), torch.rand(1).item()) == wanted
    assert policy.model is model
    assert not model.training
    assert "forward" not in vars(model)
    assert model.model.layers[0].self_attn.attention_dropout == 0.1
    assert [name for name, _ in model.named_modules()] == structure
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert list(tmp_path.iterdir()) == []
    probe = obeying(1, 8)[0]
    frozen, known = copy.deepcopy(policy), policy.log_prob(probe)
    clone_behaviour(policy, obeying(4, 2), CLONE, tmp_path)
    assert frozen.log_prob(probe) == known != policy.log_prob(probe)


def test_training_says_nothing_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = Words()
    clone_behaviour(policy, obeying(4, 1), replace(CLONE, save_steps=1), tmp_path / "clone")
    prefer(policy, pairs_of(4), ONE_STEP, tmp_path / "prefer")
    assert capfd.readouterr() == ("", "")


def test_training_that_diverges_is_an_error(tmp_path: Path) -> None:
    policy = Words()
    with torch.no_grad():
        policy.model.model.norm.weight.fill_(float("inf"))
    with pytest.raises(BadInput, match="lower the learning rate"):
        clone_behaviour(policy, obeying(4, 1), CLONE, tmp_path)


# Killed and run again.


class Killed(Exception):
    pass


def killer(step: int) -> Callable[[int, int], None]:
    def kill(done: int, _all: int) -> None:
        if done == step:
            raise Killed

    return kill


def train_cloned(policy: Words, directory: Path, rank: int, kill: int | None) -> Any:
    config = replace(CLONE, save_steps=2, lora_rank=rank)
    return clone_behaviour(
        policy, obeying(10, 1), config, directory, killer(kill) if kill else None
    )


def train_preferring(policy: Words, directory: Path, rank: int, kill: int | None) -> Any:
    config = replace(PREFER, save_steps=2, lora_rank=rank)
    return prefer(policy, pairs_of(10), config, directory, killer(kill) if kill else None)


def spoil_newest(directory: Path) -> None:
    newest = max(directory.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    optimizer = newest / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("train", "rank", "spoilt"),
    [
        (train_cloned, 0, True),
        (train_cloned, 4, False),
        (train_preferring, 0, True),
        (train_preferring, 4, False),
        pytest.param(train_cloned, 0, False, marks=pytest.mark.slow),
        pytest.param(train_cloned, 4, True, marks=pytest.mark.slow),
        pytest.param(train_preferring, 0, False, marks=pytest.mark.slow),
        pytest.param(train_preferring, 4, True, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    train: Callable[..., Any], rank: int, spoilt: bool, tmp_path: Path
) -> None:
    whole, killed, resumed = Words(), Words(), Words()
    wanted = train(whole, tmp_path / "whole", rank, None)
    with pytest.raises(Killed):
        train(killed, tmp_path / "killed", rank, 7)
    if spoilt:
        spoil_newest(tmp_path / "killed")
    found = train(resumed, tmp_path / "killed", rank, None)
    assert equal(weights(whole), weights(resumed))
    assert replace(found, cpu_seconds=0) == replace(wanted, cpu_seconds=0)


def test_the_first_steps_are_not_run_again(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_cloned(Words(), tmp_path, 0, 7)
    seen: list[int] = []
    config = replace(CLONE, save_steps=2)
    clone_behaviour(Words(), obeying(10, 1), config, tmp_path, lambda done, _: seen.append(done))
    assert seen == [7, 8, 9]


def test_no_checkpoint_of_other_training_is_taken_up(tmp_path: Path) -> None:
    train_cloned(Words(), tmp_path, 0, None)
    with pytest.raises(RunConflict, match="other data, settings or weights"):
        train_cloned(Words(seed=1), tmp_path, 0, None)
    with pytest.raises(RunConflict):
        clone_behaviour(Words(), obeying(10, 2), replace(CLONE, save_steps=2), tmp_path)
    with pytest.raises(RunConflict):
        config = replace(CLONE, save_steps=2, learning_rate=1e-4)
        clone_behaviour(Words(), obeying(10, 1), config, tmp_path)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FineTuning, {"learning_rate": 0}),
        (FineTuning, {"epochs": 0}),
        (FineTuning, {"updates": 0}),
        (FineTuning, {"warmup": 1.5}),
        (FineTuning, {"lora_rank": -1}),
        (FineTuning, {"observation_weight": -1}),
        (Preference, {"beta": 0}),
        (Preference, {"nll": -1}),
        (Preference, {"nll_form": "median"}),
        (Preference, {"max_length": 0}),
    ],
    ids=str,
)
def test_settings_that_cannot_train_are_refused(
    kind: type[Training], wrong: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        kind(**wrong)
