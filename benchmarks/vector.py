"""How fast vectors of text environments step, ours beside Gymnasium's, in one run.

`python -m trialgym.benchmarks.vector` steps 16 slots of three small environments: one that does
nothing (what is left is the vector's own cost), one that waits 2 ms a step as a container would,
one that computes for 1 ms. CPU time counts every process and hardly depends on what else the
machine does; wall time does.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from json import dumps
from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from trialgym.core import ActionSpec, Outcome, Task, TaskSet, TextEnv
from trialgym.registry import locate

Vector = VectorEnv[Any, Any, Any]
SLOTS = 16
TURNS = 50
"""Turns of an episode, so that resets are measured too."""
ROUNDS = 3


class Blanks(TaskSet):
    """Tasks that ask for nothing."""

    name = "blank"
    env = "trialgym/Blank-v0"

    def __init__(self) -> None:
        self.splits = {"train": None}

    def build(self, split: str, index: int) -> Task:
        return Task(self.task_id(split, index), self.env, split, "Say anything.")


class Blank(TextEnv[int]):
    """Counts what is said. Its observation is as long as a household's."""

    def __init__(self, waits: float = 0.0, computes: float = 0.0) -> None:
        super().__init__(Blanks(), max_turns=TURNS)
        self.waits, self.computes = waits, computes

    def start(self, task: Task) -> tuple[int, str]:
        return 0, task.instruction

    def act(self, state: int, action: str) -> tuple[int, Outcome]:
        if self.waits:
            time.sleep(self.waits)
        until = time.process_time() + self.computes if self.computes else 0.0
        while until and time.process_time() < until:
            pass
        return state + 1, Outcome("You see a table with nothing on it. " * 4)

    def grammar(self) -> ActionSpec:
        return ActionSpec("Anything.")

    def usage(self) -> tuple[int, float]:
        """Give the process that this environment is in, and its CPU seconds."""
        return os.getpid(), time.process_time()


def _ours(backend: str, factories: Sequence[Callable[[], Blank]]) -> Vector:
    vector: Vector = locate("trialgym.envs.vector:TextVectorEnv")(factories, backend=backend)
    return vector


def _gymnasium_sync(factories: Sequence[Callable[[], Blank]]) -> Vector:
    return SyncVectorEnv(factories, autoreset_mode=AutoresetMode.SAME_STEP)


def _gymnasium_async(factories: Sequence[Callable[[], Blank]]) -> Vector:
    # With shared memory, the default, text spaces are refused.
    return AsyncVectorEnv(factories, shared_memory=False, autoreset_mode=AutoresetMode.SAME_STEP)


CONTENDERS: dict[str, Callable[[Sequence[Callable[[], Blank]]], Vector]] = {
    "trialgym inline": partial(_ours, "inline"),
    "trialgym thread": partial(_ours, "thread"),
    "trialgym process": partial(_ours, "process"),
    "gymnasium sync": _gymnasium_sync,
    "gymnasium async": _gymnasium_async,
}
LOADS: dict[str, Callable[[], Blank]] = {
    "nothing": Blank,
    "waits 2 ms": partial(Blank, waits=0.002),
    "computes 1 ms": partial(Blank, computes=0.001),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What one vector did with one load."""

    load: str
    vector: str
    steps_per_second: float
    """Slot-steps by the wall clock, best of the rounds."""
    cpu_microseconds: float
    """CPU time of all processes for one slot-step, least of the rounds."""


def measure(load: str, contender: str, seconds: float) -> tuple[float, float]:
    """Step a vector for a while.

    Returns:
        Slot-steps per second, and CPU microseconds per slot-step.
    """
    vector = CONTENDERS[contender]([LOADS[load]] * SLOTS)
    actions = ["look at the table"] * SLOTS
    try:
        vector.reset(seed=1)
        vector.step(actions)
        cpu, started, steps = _cpu(vector), time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            vector.step(actions)
            steps += SLOTS
        wall = time.perf_counter() - started
        return steps / wall, (_cpu(vector) - cpu) / steps * 1e6
    finally:
        vector.close()


def _cpu(vector: Any) -> float:
    used: dict[int, float] = dict(vector.call("usage"))
    return sum((used | {os.getpid(): time.process_time()}).values())


def compare(seconds: float) -> list[Row]:
    """Measure every contender under every load, in turn, so that a noisy moment hits all alike."""
    rows = []
    for load in LOADS:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(ROUNDS):
            for name in CONTENDERS:
                found[name].append(measure(load, name, seconds))
        for name, pairs in found.items():
            speeds, costs = zip(*pairs, strict=True)
            rows.append(Row(load, name, max(speeds), min(costs)))
    return rows


def main(json: bool = False, seconds: float = 0.3) -> None:
    """Measure and print.

    Args:
        json: print an array instead of a table.
        seconds: how long each of the three rounds of a measurement takes.
    """
    rows = compare(seconds)
    if json:
        print(dumps([asdict(row) for row in rows], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    grid = Table("step", "vector", "steps/s", "of sync", "CPU µs/step", "of sync")
    base = {row.load: row for row in rows if row.vector == "gymnasium sync"}
    for row in rows:
        sync = base[row.load]
        grid.add_row(
            row.load,
            row.vector,
            f"{row.steps_per_second:,.0f}",
            f"{row.steps_per_second / sync.steps_per_second:.2f}",
            f"{row.cpu_microseconds:.1f}",
            f"{row.cpu_microseconds / sync.cpu_microseconds:.2f}",
        )
    Console().print(grid)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
