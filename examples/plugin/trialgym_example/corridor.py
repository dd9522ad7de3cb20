"""A corridor of three crossings: the smallest environment that keeps the whole contract."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from trialgym.core import ActionSpec, Outcome, Task, TaskSet, TextEnv

ARROWS = ("left", "right", "ahead", "up", "down")
LENGTH = 3
ROUTES = tuple(itertools.product(ARROWS, repeat=LENGTH))
INSTRUCTION = "Follow the arrows to the end of the corridor. One wrong turn and you are lost."
GRAMMAR = f"Answer with one word: {', '.join(ARROWS)}."


class Corridors(TaskSet):
    """Every route belongs to exactly one split, so no split can leak into another."""

    name = "corridor"
    env = "example/Corridor-v0"
    splits: Mapping[str, int | None] = {"train": 75, "validation": 25, "test": 25}

    def build(self, split: str, index: int) -> Task:
        first = {"train": 0, "validation": 75, "test": 100}[split]
        # 37 and 125 share no divisor: a fixed shuffle, so that every split has every arrow.
        route = ROUTES[(first + index) * 37 % len(ROUTES)]
        return Task(self.task_id(split, index), self.env, split, INSTRUCTION, {"route": route})


@dataclass(frozen=True, slots=True)
class Place:
    """Where the walker is."""

    route: tuple[str, ...]
    passed: int = 0
    lost: bool = False


class Corridor(TextEnv[Place]):
    """Turn as the arrow says, three times. The score is the share of crossings passed."""

    version = "1"

    def __init__(
        self,
        *,
        split: str | None = None,
        max_turns: int = 6,
        admissible: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            Corridors(),
            split=split,
            max_turns=max_turns,
            admissible=admissible,
            render_mode=render_mode,
        )

    def start(self, task: Task) -> tuple[Place, str]:
        place = Place(tuple(task.data["route"]))
        return place, f"{task.instruction}\n{sight(place)}"

    def act(self, state: Place, action: str) -> tuple[Place, Outcome]:
        score = state.passed / LENGTH
        word = action.strip().lower()
        if word not in ARROWS:
            return state, Outcome(f"Nobody understands that. {GRAMMAR}", score, invalid=True)
        if word != state.route[state.passed]:
            return replace(state, lost=True), Outcome("You are lost.", score, done=True)
        after = replace(state, passed=state.passed + 1)
        out = after.passed == LENGTH
        seen = "You are out." if out else sight(after)
        return after, Outcome(seen, after.passed / LENGTH, success=out, done=out)

    def solve(self, state: Place) -> str:
        return state.route[state.passed]

    def admissible(self, state: Place) -> tuple[str, ...]:
        return ARROWS

    def grammar(self) -> ActionSpec:
        return ActionSpec(GRAMMAR)


def sight(place: Place) -> str:
    """Say what is seen at a crossing."""
    return (
        f"You stand at crossing {place.passed + 1}. The arrow points {place.route[place.passed]}."
    )
