"""How a policy that ranks actions is trained; language models go through `language.py`.

Both sides share what they learn from (`Experience`), how long (`Schedule`) and what they report.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from trialgym.core import seed_of
from trialgym.errors import NothingToLearn
from trialgym.policy import TrainablePolicy
from trialgym.records import Json, Trajectory

from .losses import dpo
from .pairs import Pair

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Experience:
    """What an algorithm may learn from."""

    demonstrations: Sequence[Trajectory] = ()
    """The expert's trajectories."""
    explored: Sequence[Trajectory] = ()
    """The policy's own, of the latest round."""
    experts: Sequence[Trajectory] = ()
    """The expert's trajectories of the explored tasks, for pairs with an expert."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int = 3
    updates: int | None = None
    """Optimiser updates, whatever the epochs: what equal compute among methods is set by."""
    batch: int = 32
    learning_rate: float = 1e-3
    gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    seed: int = 0
    """Of the order of the batches."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a training phase did."""

    algorithm: str
    rows: int
    """Trajectories or pairs learnt from."""
    steps: int
    """Optimiser updates."""
    tokens: int
    """Trained positions, times epochs: tokens of a language model, actions of a ranker."""
    cpu_seconds: float
    metrics: Sequence[Mapping[str, float]] = ()
    """One row an epoch."""
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> Json:
        return asdict(self)


def imitate(
    policy: TrainablePolicy, trajectories: Sequence[Trajectory], schedule: Schedule, name: str
) -> Report:
    """Raise the log-probabilities of the trajectories' actions; the mean over actions is the loss.

    Raises:
        NothingToLearn: no trajectory has a turn.
    """
    rows = [one for one in trajectories if one.turns]
    if not rows:
        raise NothingToLearn(f"{name}: no trajectory to learn from; collect some that succeed")
    prepared = [policy.prepare(one) for one in rows]
    weights = [_weights(one) for one in rows]

    def loss(batch: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        logs = policy.log_probs([prepared[i] for i in batch])
        mask = _pad([weights[i] for i in batch])
        value = -(logs * mask).sum() / mask.sum().clamp(min=1)
        return value, {"loss": value.item()}

    tokens = sum(int(sum(weight)) for weight in weights)
    return _train(policy, len(rows), tokens, loss, schedule, name)


def prefer(
    policy: TrainablePolicy,
    pairs: Sequence[Pair],
    schedule: Schedule,
    *,
    beta: float,
    nll: float,
    name: str,
) -> Report:
    """Prefer chosen to rejected trajectories by DPO; the reference is the policy as it comes in.

    Args:
        policy: trained in place.
        pairs: only turns from a pair's `start` on enter the sums.
        schedule: batches count pairs.
        beta: as in `losses.dpo`.
        nll: weight of the mean negative log-probability of the chosen actions, which keeps DPO from
            lowering both sides.
        name: of the algorithm, for the report.

    Raises:
        NothingToLearn: no pairs.
    """
    if not pairs:
        raise NothingToLearn(
            f"{name}: no pairs; explore more tasks or samples, or loosen the pair rules"
        )
    sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    cache = {id(side): policy.prepare(side) for side in sides}
    chosen = [cache[id(pair.chosen)] for pair in pairs]
    rejected = [cache[id(pair.rejected)] for pair in pairs]
    chosen_weights = [_weights(pair.chosen, pair.start) for pair in pairs]
    rejected_weights = [_weights(pair.rejected, pair.start) for pair in pairs]

    def sums(batch: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        ours = _pad([chosen_weights[i] for i in batch])
        theirs = _pad([rejected_weights[i] for i in batch])
        good = (policy.log_probs([chosen[i] for i in batch]) * ours).sum(1)
        bad = (policy.log_probs([rejected[i] for i in batch]) * theirs).sum(1)
        return good, bad, ours.sum(1)

    with torch.no_grad():
        # A loop over pairs, not batches: the reference must not depend on what is beside it.
        reference = [tuple(float(x) for x in sums([i])[:2]) for i in range(len(pairs))]

    def loss(batch: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        good, bad, lengths = sums(batch)
        was_good = torch.tensor([reference[i][0] for i in batch])
        was_bad = torch.tensor([reference[i][1] for i in batch])
        preference = dpo(good, bad, was_good, was_bad, beta).mean()
        value = preference - nll * good.sum() / lengths.sum().clamp(min=1)
        margin = beta * ((good - was_good) - (bad - was_bad))
        return value, {
            "loss": value.item(),
            "dpo_loss": preference.item(),
            "margin": margin.mean().item(),
            "accuracy": (margin > 0).float().mean().item(),
            "chosen_log_prob": good.mean().item(),
            "rejected_log_prob": bad.mean().item(),
        }

    tokens = int(sum(map(sum, chosen_weights)) + sum(map(sum, rejected_weights)))
    return _train(policy, len(pairs), tokens, loss, schedule, name)


def _train(
    policy: TrainablePolicy,
    rows: int,
    tokens: int,
    loss: Callable[[Sequence[int]], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    name: str,
) -> Report:
    parameters = list(policy.parameters())
    optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate)
    order = random.Random(seed_of("order", schedule.seed))
    began, history, seen = time.process_time(), list[dict[str, float]](), 0
    per_epoch = -(-rows // schedule.batch)
    updates = schedule.epochs * per_epoch if schedule.updates is None else schedule.updates
    with one_thread():
        for batch in islice(_batches(list(range(rows)), schedule.batch, order), updates):
            value, numbers = loss(batch)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, schedule.gradient_norm)
            optimizer.step()
            seen += len(batch)
            history.append(numbers)
    metrics = [_mean(history[at : at + per_epoch]) for at in range(0, updates, per_epoch)]
    spent = time.process_time() - began
    return Report(name, rows, updates, tokens * seen // rows, spent, metrics)


def _weights(trajectory: Trajectory, start: int = 0) -> list[float]:
    return [float(turn.loss and i >= start) for i, turn in enumerate(trajectory.turns)]


def _pad(rows: Sequence[Sequence[float]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (longest - len(row))] for row in rows])


def _batches(items: list[Item], size: int, order: random.Random) -> Iterator[list[Item]]:
    """Yield batches for ever, each epoch in an order of its own."""
    while True:
        order.shuffle(items)
        for at in range(0, len(items), size):
            yield items[at : at + size]


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


@contextmanager
def one_thread() -> Iterator[None]:
    """Train on one thread: the networks are small, and sums then have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
