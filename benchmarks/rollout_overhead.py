"""What a rollout costs beside the model, and what waiting for the slowest would cost.

`python -m trialgym.benchmarks.rollout_overhead` runs 256 episodes at once over small environments:

- cost: CPU microseconds of a turn outside the policy, for environments on the event loop and for
  environments that block and get a thread each; as a share of model calls of several lengths.
- straggler: environments that wait 2 ms a step, one of them a hundred times as long; the share of
  the run in which neither the model nor the slow environment was at work.
- lock-step: tool calls that wait by a log-normal law, beside a loop that generates for all, then
  runs all tools and waits for the slowest (or, as some trainers do, runs one after another).

Waiting is real, so the last two are by the wall clock; a busy machine makes every row slower.
"""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from json import dumps
from typing import Any, ClassVar

from trialgym.core import ActionSpec, Outcome, Task, TaskSet, TextEnv, seed_of
from trialgym.policy import Reply, Request
from trialgym.records import Message, PolicyInfo
from trialgym.rollout import Limits, rollout

from .cpu import cpu_seconds

EPISODES = 256
TURNS = 10
WORDS = "You see a table with nothing on it. " * 4
MODEL_SECONDS = (0.05, 0.2, 0.5)
"""Model calls for a batch of 256 replies: a scoring pass; short and longer generation."""


class Numbers(TaskSet):
    name = "wait"
    env = "trialgym/Wait-v0"

    def __init__(self) -> None:
        self.splits = {"train": None}

    def build(self, split: str, index: int) -> Task:
        return Task(self.task_id(split, index), self.env, split, "Say anything.")


class Wait(TextEnv[int]):
    """Counts what is said; each step may wait first."""

    blocking: ClassVar[bool] = False

    def __init__(self, seconds: Callable[[int, int], float], turns: int) -> None:
        super().__init__(Numbers(), max_turns=turns)
        self.seconds = seconds

    def start(self, task: Task) -> tuple[int, str]:
        return 0, task.instruction

    def act(self, state: int, action: str) -> tuple[int, Outcome]:
        if self.seconds is not nothing:
            time.sleep(self.seconds(self.task.index, state))
        return state + 1, Outcome(WORDS)

    def grammar(self) -> ActionSpec:
        return SPEC


SPEC = ActionSpec("Anything.")


class Blocking(Wait):
    """The same in a thread of its own."""

    blocking: ClassVar[bool] = True


class Model:
    """Stands for a model: a call waits as long as a batch takes, whatever its size."""

    needs_candidates = False

    def __init__(self, seconds: float) -> None:
        self.info = PolicyInfo("stand-in")
        self.seconds, self.cpu = seconds, 0.0
        self.busy: list[tuple[float, float]] = []

    def preamble(self, instruction: str, spec: ActionSpec) -> tuple[Message, ...]:
        return ()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        began, used = time.perf_counter(), time.thread_time()
        if self.seconds:
            time.sleep(self.seconds)
        replies = [Reply("look")] * len(requests)
        self.busy.append((began, time.perf_counter()))
        self.cpu += time.thread_time() - used
        return replies

    def forget(self, episode: str) -> None:
        pass


def nothing(index: int, turn: int) -> float:
    return 0.0


def straggler(index: int, turn: int) -> float:
    """2 ms, and a hundred times as long for one of the episodes."""
    return 0.002 if index else 0.2


def log_normal(index: int, turn: int) -> float:
    """Median 20 ms; one call in twenty takes longer than 100 ms."""
    return 0.02 * random.Random(seed_of(index, turn)).lognormvariate(0, 1)


def collect(
    model: Model, kind: type[Wait], seconds: Callable[[int, int], float], turns: int = TURNS
) -> float:
    """Roll 256 episodes out; give the wall seconds."""
    tasks = Numbers().ids("train", EPISODES)
    began = time.perf_counter()
    found = rollout(
        model, lambda: kind(seconds, turns), tasks, env=Numbers.env,
        limits=Limits(concurrency=EPISODES),
    )  # fmt: skip
    assert sum(len(one.turns) for one in found) == EPISODES * turns
    return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of a turn outside the policy."""

    environment: str
    microseconds: float
    of_step: float
    """Of these, what the bare environment's step takes."""
    shares: dict[str, float]
    """Over the model's time for a batch of 256, by the milliseconds that it takes."""


def cost(kind: type[Wait], label: str) -> Cost:
    """Measure the CPU cost of a turn, least of five runs."""
    found = []
    for _ in range(5):
        model, began = Model(0.0), cpu_seconds()
        collect(model, kind, nothing)
        found.append((cpu_seconds() - began - model.cpu) / EPISODES / TURNS)
    shares = {f"{s * 1e3:.0f} ms": min(found) * EPISODES / s for s in MODEL_SECONDS}
    return Cost(label, min(found) * 1e6, _bare_step(kind) * 1e6, shares)


def _bare_step(kind: type[Wait]) -> float:
    env, found = kind(nothing, 10_000), []
    for _ in range(5):
        env.reset(seed=0)
        began = time.process_time()
        for _ in range(2_000):
            env.step("look")
        found.append((time.process_time() - began) / 2_000)
    return min(found)


@dataclass(frozen=True, slots=True)
class Straggler:
    """One environment a hundred times slower than 255 others."""

    model_milliseconds: float
    wall: float
    calls: int
    covered: float
    """Seconds in which the model or the slow environment was at work: no schedule saves these."""

    @property
    def overhead(self) -> float:
        return (self.wall - self.covered) / self.wall


def with_straggler(seconds: float) -> Straggler:
    """Run 256 blocking episodes of which one is slow."""
    model, slow = Model(seconds), []

    class Watched(Blocking):
        def act(self, state: int, action: str) -> tuple[int, Outcome]:
            began = time.perf_counter()
            after = super().act(state, action)
            if self.task.index == 0:
                slow.append((began, time.perf_counter()))
            return after

    wall = collect(model, Watched, straggler)
    return Straggler(seconds * 1e3, wall, len(model.busy), covered([*model.busy, *slow]))


def covered(spans: list[tuple[float, float]]) -> float:
    """Give the length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


@dataclass(frozen=True, slots=True)
class LockStep:
    """The same episodes in a loop that waits for all tools before it generates again."""

    turns: int
    rollout: float
    gathered: float
    """Wall seconds where all tools run at once."""
    serial: float
    """Wall seconds where the tools run one after another; added up, not run."""

    @property
    def ratio(self) -> float:
        return self.gathered / self.rollout


def lock_step(turns: int, seconds: float) -> LockStep:
    """Compare with tool calls that wait by a log-normal law."""
    model = Model(seconds)
    ours = collect(model, Blocking, log_normal, turns)
    began = time.perf_counter()
    with ThreadPoolExecutor(EPISODES) as pool:
        for turn in range(turns):
            time.sleep(seconds)
            waits = [log_normal(index, turn) for index in range(EPISODES)]
            list(pool.map(time.sleep, waits))
    gathered = time.perf_counter() - began
    tools = sum(log_normal(index, turn) for index in range(EPISODES) for turn in range(turns))
    return LockStep(turns, ours, gathered, turns * seconds + tools)


def main(json: bool = False) -> None:
    """Measure and print.

    Args:
        json: print an object instead of lines.
    """
    costs = [cost(Wait, "on the loop"), cost(Blocking, "in threads")]
    slow = [with_straggler(seconds) for seconds in (0.02, 0.05, 0.2)]
    steps = [lock_step(turns, 0.05) for turns in (1, 3, 10)]
    if json:
        parts: dict[str, Sequence[Any]] = {"cost": costs, "straggler": slow, "lock_step": steps}
        print(dumps({name: [asdict(row) for row in rows] for name, rows in parts.items()}))
        return
    print(f"CPU of a turn outside the policy, {EPISODES} episodes at once, and its share")
    for row in costs:
        shares = ", ".join(f"{share:.1%} of {name}" for name, share in row.shares.items())
        print(
            f"  {row.environment:12} {row.microseconds:6.1f} µs "
            f"({row.of_step:.1f} of them the step itself): {shares}"
        )
    print("One environment a hundred times slower, by the wall clock")
    for one in slow:
        print(
            f"  model {one.model_milliseconds:3.0f} ms: {one.wall:.2f} s in {one.calls} calls, "
            f"model or slow environment busy {one.covered:.2f} s; overhead {one.overhead:.1%}"
        )
    print("Log-normal tools (median 20 ms), model 50 ms, beside lock-step, by the wall clock")
    for each in steps:
        print(
            f"  {each.turns:2} turns: {each.rollout:.2f} s; lock-step {each.gathered:.2f} s "
            f"({each.ratio:.2f} times); tools one after another {each.serial:.1f} s"
        )


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
