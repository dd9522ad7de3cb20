"""Tiny environments for tests: one that keeps the contract, and one spoilt twin a property."""

import random
import threading
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from trialgym.core import ActionSpec, Outcome, Task, TaskSet, TextEnv, seed_of
from trialgym.errors import BadInput, MissingExtra, UnknownId

COLOURS = ("red", "green", "blue", "white", "black")
HELP = "Say `read` to read the sign, or `take <colour>` to go through a door."


class Houses(TaskSet):
    """Houses of three rooms; the number in the instruction is of one split only."""

    name = "corridor"
    env = "tests/Corridor-v0"
    splits: ClassVar[dict[str, int | None]] = {"train": None, "validation": 30, "test": 40}
    stride = 3

    def build(self, split: str, index: int) -> Task:
        generator = random.Random(seed_of(self.name, split, index))
        doors = [generator.choice(COLOURS) for _ in range(3)]
        number = index * self.stride + list(self.splits).index(split) % self.stride
        words = f"Walk through house {number}. {HELP}"
        return Task(self.task_id(split, index), self.env, split, words, {"doors": doors})


@dataclass(frozen=True, slots=True)
class Room:
    doors: tuple[str, ...]
    passed: int = 0
    trapped: bool = False


class Corridor(TextEnv[Room]):
    """Three doors in a row. A sign names the right one; a wrong one is a trap."""

    def __init__(self, *, split: str | None = None, max_turns: int = 8, **options: Any) -> None:
        super().__init__(self.houses(), split=split, max_turns=max_turns, **options)

    houses = Houses

    def start(self, task: Task) -> tuple[Room, str]:
        return Room(tuple(task.data["doors"])), f"{task.instruction} You stand in room 0."

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        verb, _, colour = action.strip().partition(" ")
        if action.strip() == "read":
            return state, Outcome(f"The sign says {state.doors[state.passed]}.", state.passed / 3)
        if verb != "take" or colour not in COLOURS:
            return state, Outcome(f"Not understood. {HELP}", state.passed / 3, invalid=True)
        if colour != state.doors[state.passed]:
            trapped = replace(state, trapped=True)
            return trapped, Outcome("The door is a trap.", state.passed / 3, done=True)
        after = replace(state, passed=state.passed + 1)
        won = after.passed == 3
        words = "You are out." if won else f"You stand in room {after.passed}."
        return after, Outcome(words, after.passed / 3, success=won, done=won)

    def solve(self, state: Room) -> str:
        return f"take {state.doors[state.passed]}"

    def admissible(self, state: Room) -> tuple[str, ...]:
        return ("read", *(f"take {colour}" for colour in COLOURS))

    def grammar(self) -> ActionSpec:
        return ActionSpec(HELP)


class Handle:
    """A room that changes in place, as a server would."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def __repr__(self) -> str:
        return repr(self.room)


class InPlace(TextEnv[Handle]):
    """The corridor over a handle."""

    def __init__(self, *, split: str | None = None, max_turns: int = 8, **options: Any) -> None:
        super().__init__(Houses(), split=split, max_turns=max_turns, **options)
        self.inner = Corridor()

    def start(self, task: Task) -> tuple[Handle, str]:
        room, words = self.inner.start(task)
        return Handle(room), words

    def act(self, state: Handle, action: str) -> tuple[Handle, Outcome]:
        state.room, outcome = self.inner.act(state.room, action)
        return state, outcome

    def solve(self, state: Handle) -> str:
        return self.inner.solve(state.room)

    def grammar(self) -> ActionSpec:
        return ActionSpec(HELP)


class Live(InPlace):
    """Says that its states are handles, so that forking replays."""

    live = True


class WithoutExpert(Corridor):
    """Nobody knows the way."""

    solve = TextEnv.solve


# What follows breaks one rule each.


class ForgetsNothing(Corridor):
    """Counts episodes and says so: leaks across reset."""

    visits = 0

    def start(self, task: Task) -> tuple[Room, str]:
        room, words = super().start(task)
        self.visits += 1
        return room, words + (" It looks familiar." if self.visits > 1 else "")


class Diary(Corridor):
    """Keeps what was said in earlier episodes and reads it out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pages: list[str] = []

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        self.pages.append(action)
        room, outcome = super().act(state, action)
        return room, replace(outcome, observation=f"{outcome.observation} Page {len(self.pages)}.")


class Shared(Corridor):
    """Keeps its room count in the class: two environments feel each other."""

    steps: ClassVar[list[int]] = []

    def start(self, task: Task) -> tuple[Room, str]:
        self.steps.clear()
        return super().start(task)

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        self.steps.append(1)
        room, outcome = super().act(state, action)
        return room, replace(outcome, observation=f"{outcome.observation} {len(self.steps)} steps.")


class GlobalDice(Corridor):
    """Draws from the generator of the whole process."""

    def start(self, task: Task) -> tuple[Room, str]:
        room, words = super().start(task)
        return room, f"{words} It is {random.choice(range(1000))} degrees."


class HashOrder(Corridor):
    """Says a set in its order, which changes from process to process."""

    def start(self, task: Task) -> tuple[Room, str]:
        room, words = super().start(task)
        return room, f"{words} Things: {' '.join({f'thing{i}' for i in range(30)})}."


class DoubleReward(Corridor):
    """Pays twice."""

    def step(self, action: str) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, 2 * float(reward), *rest


class ScoreOfThree(Corridor):
    """Scores up to three."""

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        room, outcome = super().act(state, action)
        return room, replace(outcome, score=outcome.score * 3)


class NoInvalid(Corridor):
    """Leaves a key out of `info`."""

    def _info(self, invalid: bool) -> dict[str, Any]:
        return {key: value for key, value in super()._info(invalid).items() if key != "invalid"}


class Chatterbox(Corridor):
    """Observes more than the space holds."""

    def step(self, action: str) -> Any:
        _, *rest = super().step(action)
        return "bla " * 10_000, *rest


class SetInInfo(Corridor):
    """Puts into `info` what JSON cannot carry."""

    def _info(self, invalid: bool) -> dict[str, Any]:
        return super()._info(invalid) | {"colours": set(COLOURS)}


class LostExpert(Corridor):
    """Its expert does not know every seventh house."""

    def solve(self, state: Room) -> str:
        return "read" if self.task.index % 7 == 3 else super().solve(state)


class CountsLetters(Corridor):
    """Trips over numbers too long for `int`."""

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        if action.isdecimal():
            return state, Outcome(f"{int(action)}?", state.passed / 3, invalid=True)
        return super().act(state, action)


class Believer(Corridor):
    """Believes whoever claims success."""

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        if "score" in action:
            return state, Outcome("Well done.", 1.0, success=True, done=True)
        return super().act(state, action)


class Listener(Corridor):
    """Takes any text that names the right colour; the first observation names them all."""

    def start(self, task: Task) -> tuple[Room, str]:
        room, words = super().start(task)
        return room, f"{words} There are {' '.join(COLOURS)} doors."

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        if state.doors[state.passed] in action:
            return super().act(state, f"take {state.doors[state.passed]}")
        return super().act(state, action)


class Patient(Corridor):
    """Lets everybody out who says nothing for long enough."""

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        if not action and self.turns == 3:
            return state, Outcome("You are out.", 1.0, success=True, done=True)
        return super().act(state, action)


class Generous(Corridor):
    """Opens any door."""

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        if action.startswith("take "):
            return super().act(state, self.solve(state))
        return super().act(state, action)


class SameHouses(Houses):
    stride = 1


class Overlapping(Corridor):
    """Has the same house numbers and doors in each split."""

    class houses(SameHouses):  # noqa: N801
        def build(self, split: str, index: int) -> Task:
            task = super().build("train", index)
            return replace(task, id=self.task_id(split, index), split=split)


class Sleepwalker(Corridor):
    """Steps on after the end."""

    def _check_running(self) -> None:
        if self.turns == 0:
            super()._check_running()

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        return super().act(replace(state, passed=state.passed % 3), action)


class Endless(Corridor):
    """Never truncates."""

    def step(self, action: str) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        self._over = terminated or self.turns > 50
        return observation, reward, terminated, self.turns > 50, info


class Strict(Corridor):
    """Ends the episode at the first word that it does not understand."""

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        room, outcome = super().act(state, action)
        return room, replace(outcome, done=outcome.done or outcome.invalid)


class Clock(Corridor):
    """Hashes the number of turns with the state."""

    def fingerprint(self, state: Room) -> str:
        return f"{state} {self.turns}"


class Blank(Corridor):
    """Hashes nothing."""

    def fingerprint(self, state: Room) -> str:
        return ""


class FalseList(Corridor):
    """Lists an action that it does not understand."""

    def admissible(self, state: Room) -> tuple[str, ...]:
        return (*super().admissible(state), "dance")


class ShortList(Corridor):
    """Lists too little: the right door is missing."""

    def admissible(self, state: Room) -> tuple[str, ...]:
        return ("read",)


class Locked(Corridor):
    """Holds what cannot be pickled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lock = threading.Lock()


class OneThread(Corridor):
    """Serves only the thread that made it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.home = threading.get_ident()

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        if threading.get_ident() != self.home:
            raise RuntimeError("made in another thread")
        return super().act(state, action)


class Silent(Corridor):
    """Does not say the task."""

    def start(self, task: Task) -> tuple[Room, str]:
        return super().start(task)[0], "You stand in room 0."


class Mute(Corridor):
    """Tells an agent nothing about its actions."""

    def grammar(self) -> ActionSpec:
        return ActionSpec("")


class AnyTask(Corridor):
    """Accepts every task id."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        try:
            return super().reset(seed=seed, options=options)
        except (BadInput, UnknownId):
            return super().reset(seed=seed)


class IgnoresSeed(Corridor):
    """Resets without the seed: what Gymnasium's own checker finds."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=None, options=options)


def Elsewhere() -> Corridor:  # noqa: N802
    """Make what needs a package that is not installed."""
    raise MissingExtra("docker", "docker")


BROKEN = {
    "gymnasium": (IgnoresSeed,),
    "tasks": (AnyTask,),
    "splits": (Overlapping,),
    "instruction": (Silent,),
    "actions": (Mute,),
    "rewards": (DoubleReward, ScoreOfThree, NoInvalid),
    "bounds": (Chatterbox,),
    "json": (SetInInfo,),
    "ready": (Sleepwalker,),
    "cap": (Endless, Strict),
    "state hash": (Clock, Blank),
    "admissible": (FalseList, ShortList),
    "twin": (HashOrder, GlobalDice),
    "private random": (GlobalDice,),
    "replay": (Diary, GlobalDice),
    "fork": (InPlace, Diary),
    "reset": (ForgetsNothing, Diary),
    "isolation": (Shared,),
    "threads": (OneThread,),
    "pickling": (Locked,),
    "hostile": (CountsLetters, Believer),
    "expert": (LostExpert,),
    "null": (Patient,),
    "echo": (Listener,),
    "garbage": (Believer,),
    "random": (Generous,),
}
"""For each property the environments that break it."""
