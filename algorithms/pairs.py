"""Preference pairs: which trajectory of a task is to be preferred to which, and from which turn on.

The rules are those of ETO (Song et al. 2024, arXiv 2403.02502): an agent's trajectory against the
expert's of the same task, the higher score preferred, equal scores dropped, a losing agent cut to
five turns beyond the expert. Options add pairs among an agent's own trajectories, a cap a task
(many samples would otherwise weigh easy tasks up), and pairs that begin or end near the first turn
where both sides chose differently.

Departures: a trajectory that a fault ended makes no pair (it says nothing about the agent); both
sides get the same preamble; a score differs only beyond the noise of floating point.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from trialgym.errors import BadInput
from trialgym.records import Trajectory, Turn

FLOAT_NOISE = 1e-9
"""Scores nearer than this are equal: sums of rewards carry rounding errors."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two trajectories of one task, of which the first is preferred."""

    task_id: str
    chosen: Trajectory
    rejected: Trajectory
    start: int = 0
    """Leading turns that both sides share; only turns from here on are trained."""


@dataclass(frozen=True, slots=True)
class PairRules:
    """Which pairs to build; the defaults are ETO's."""

    source: Literal["expert", "self", "both"] = "expert"
    """`expert`: each trajectory against the expert's; `self`: an agent's best trajectory of a task
    (the shortest among equals) against its worse ones; `both`: the two together."""
    margin: float = 0.0
    """By how much scores must differ; a difference of exactly this much is a tie."""
    swap: bool = True
    """Prefer the agent where it beats the expert; off, such a trajectory makes no pair."""
    extra_turns: int | None = 5
    """A rejected agent is cut to this many turns beyond the chosen side, so that a loop up to the
    turn limit does not dominate the sum of log-probabilities; None leaves it whole."""
    last_wins: bool = True
    """Of several explorations of a task only the last one read meets the expert."""
    rejected_per_chosen: int = 2
    """Most worse trajectories that an agent's own best one of a task is set against."""
    max_pairs_per_task: int | None = None
    """Most pairs a task may give, those with the expert first."""
    from_divergence: bool = False
    """Train only from the first turn on where both sides chose differently in the same state."""
    turns_after_divergence: int | None = None
    """Cut both sides to this many turns counted from that turn; 1 keeps the differing choice."""

    def __post_init__(self) -> None:
        """Refuse rules that no pair could meet."""
        if self.source not in ("expert", "self", "both"):
            raise BadInput(f"source `{self.source}`; wanted `expert`, `self` or `both`")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise BadInput(f"margin {self.margin}; wanted a number from 0 up")
        least = {
            "extra_turns": 0,
            "rejected_per_chosen": 1,
            "max_pairs_per_task": 1,
            "turns_after_divergence": 1,
        }
        given = asdict(self)
        for name, bound in least.items():
            value = given[name]
            if value is not None and value < bound:
                raise BadInput(f"{name} {value}; wanted at least {bound}")


ETO = PairRules()
"""The rules of the paper."""


@dataclass(frozen=True, slots=True)
class PairReport:
    """Where the trajectories went: what an iteration yields, and why not more."""

    trajectories: int = 0
    tasks: int = 0
    """Tasks with at least one trajectory, usable or not."""
    faults: int = 0
    """Trajectories, the expert's included, left out: a fault ended them or they have no score."""
    empty: int = 0
    """Trajectories left out for having no turn."""
    superseded: int = 0
    """Explorations left out for a later one of the same task."""
    no_expert: int = 0
    """Tasks left without a pair with the expert, for want of an expert trajectory."""
    ties: int = 0
    """Comparisons whose scores are equal."""
    better: int = 0
    """Trajectories above the expert that made no pair, `swap` being off."""
    swapped: int = 0
    """Pairs in which the expert is the rejected side. Many of them may mean a mis-scaled score."""
    truncated: int = 0
    """Pairs whose rejected side was cut to `extra_turns` beyond the chosen one."""
    other_prompt: int = 0
    """Pairs dropped because the sides begin with different observations."""
    identical: int = 0
    """Pairs dropped because both sides act alike throughout, or because another pair is equal."""
    no_choice: int = 0
    """Pairs dropped because nowhere do both sides choose differently in the same state: chance in
    the environment parted them, or one stopped early."""
    capped: int = 0
    """Pairs dropped by `max_pairs_per_task`."""
    kept: int = 0

    @property
    def pairs_per_task(self) -> float:
        """The yield: it falls as the agent gets better, and tells when another round is vain."""
        return self.kept / self.tasks if self.tasks else 0.0

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def build_pairs(
    explored: Iterable[Trajectory],
    experts: Mapping[str, Trajectory] | None = None,
    rules: PairRules = ETO,
) -> tuple[list[Pair], PairReport]:
    """Build the pairs of one round.

    Args:
        explored: the agent's trajectories, in the order they were read.
        experts: the expert's trajectory by task id; not needed for `source="self"`.
        rules: which pairs to build.

    Returns:
        The pairs, by task id and then by sample, and the account of all that made none.
    """
    count: Counter[str] = Counter()
    tasks: dict[str, list[Trajectory]] = {}
    for trajectory in explored:
        count["trajectories"] += 1
        usable = tasks.setdefault(trajectory.task_id, [])
        if _usable(trajectory, count):
            usable.append(trajectory)
    count["tasks"] = len(tasks)
    pairs: list[Pair] = []
    for task_id in sorted(tasks):
        found: list[Pair] = []
        if rules.source != "self":
            found += _against_expert(tasks[task_id], (experts or {}).get(task_id), rules, count)
        if rules.source != "expert":
            found += _among_own(tasks[task_id], rules, count)
        pairs += _distinct(found, rules.max_pairs_per_task, count)
    count["kept"] = len(pairs)
    return pairs, PairReport(**count)


def divergence(first: Trajectory, second: Trajectory) -> int | None:
    """Find the first turn where two trajectories choose differently in the same state.

    Returns:
        Index of the turn; None where what they see differs before what they choose does, or where
        one of them ends first.
    """
    for index, (left, right) in enumerate(zip(first.turns, second.turns, strict=False)):
        if left.observation != right.observation or left.state_hash != right.state_hash:
            return None
        if _choice(left) != _choice(right):
            return index
    return None


def _usable(trajectory: Trajectory, count: Counter[str]) -> bool:
    if trajectory.faulty or not math.isfinite(trajectory.score):
        count["faults"] += 1
        return False
    if not trajectory.turns:
        count["empty"] += 1
        return False
    return True


def _against_expert(
    own: Sequence[Trajectory], expert: Trajectory | None, rules: PairRules, count: Counter[str]
) -> list[Pair]:
    if expert is None or not _usable(expert, count):
        count["no_expert"] += 1
        return []
    if rules.last_wins and own:
        count["superseded"] += len(own) - 1
        own = own[-1:]
    pairs = []
    for agent in sorted(own, key=_order):
        # The prompt is what the agent will act under; the expert may have acted under none.
        shown = replace(expert, preamble=agent.preamble)
        if _beats(shown, agent, rules):
            pairs.append(_pair(shown, agent, rules, count))
        elif not _beats(agent, shown, rules):
            count["ties"] += 1
        elif not rules.swap:
            count["better"] += 1
        else:
            pairs.append(_pair(agent, shown, replace(rules, extra_turns=None), count))
            count["swapped"] += pairs[-1] is not None
    return [pair for pair in pairs if pair is not None]


def _among_own(own: Sequence[Trajectory], rules: PairRules, count: Counter[str]) -> list[Pair]:
    if len(own) < 2:
        return []
    ranked = sorted(own, key=lambda one: (-one.score, len(one.turns), _order(one)))
    best = ranked[0]
    worse = sorted((one for one in ranked if _beats(best, one, rules)), key=_order)
    count["ties"] += len(own) - 1 - len(worse)
    pairs: list[Pair] = []
    for rejected in worse:
        if len(pairs) == rules.rejected_per_chosen:
            break
        pair = _pair(best, rejected, rules, count)
        if pair is not None:
            pairs += _distinct([pair], None, count, pairs)
    return pairs


def _pair(
    chosen: Trajectory, rejected: Trajectory, rules: PairRules, count: Counter[str]
) -> Pair | None:
    """Cut both sides to what is trained; None, counted, where nothing is left to compare."""
    if chosen.turns[0].observation != rejected.turns[0].observation:
        count["other_prompt"] += 1
        return None
    limit = len(rejected.turns)
    if rules.extra_turns is not None:
        limit = min(limit, len(chosen.turns) + rules.extra_turns)
    truncated = limit < len(rejected.turns)
    rejected = rejected.cut(limit)
    if _choices(chosen) == _choices(rejected):
        count["identical"] += 1
        return None
    start = 0
    if rules.from_divergence or rules.turns_after_divergence is not None:
        parting = divergence(chosen, rejected)
        if parting is None:
            count["no_choice"] += 1
            return None
        if rules.turns_after_divergence is not None:
            end = parting + rules.turns_after_divergence
            chosen, rejected = chosen.cut(end), rejected.cut(end)
        start = parting if rules.from_divergence else 0
    count["truncated"] += truncated
    return Pair(chosen.task_id, chosen, rejected, start)


def _distinct(
    found: Iterable[Pair], most: int | None, count: Counter[str], before: Iterable[Pair] = ()
) -> list[Pair]:
    """Leave out pairs that equal an earlier one, and those beyond the cap."""
    seen = {_content(pair) for pair in before}
    kept: list[Pair] = []
    for pair in found:
        content = _content(pair)
        if content in seen:
            count["identical"] += 1
        elif most is not None and len(kept) >= most:
            count["capped"] += 1
        else:
            seen.add(content)
            kept.append(pair)
    return kept


def _beats(first: Trajectory, second: Trajectory, rules: PairRules) -> bool:
    return first.score - second.score > rules.margin + FLOAT_NOISE


def _order(trajectory: Trajectory) -> tuple[int, int, str]:
    return trajectory.sample, trajectory.policy.iteration, trajectory.id


def _choice(turn: Turn) -> str:
    """Tell what was done; a reply without an action differs from another by its text."""
    return turn.action or turn.text


def _choices(trajectory: Trajectory) -> tuple[str, ...]:
    return tuple(_choice(turn) for turn in trajectory.turns)


def _content(pair: Pair) -> tuple[object, ...]:
    return _choices(pair.chosen), _choices(pair.rejected), pair.start
