"""The state of a household: what stays, what changes, when the goal is met, and how it reads.

Sets of receptacles and of objects are bit masks: bit `n` stands for the receptacle or object with
number `n` of the room's listing. A mask has one order, so two equal states read the same, however
they were reached.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from trialgym.core import Task
from trialgym.errors import BadInput

from .rooms import CLEANABLE, COOLABLE, FITS, HEATABLE, KNIVES, LAMPS, OPENABLE, SLICEABLE
from .tasks import KINDS

CLEAN, HOT, COOL, SLICED, LIT = range(5)
"""Properties that an object can take on; each is a mask in `State.marks`."""
TAKES_MARK = (CLEANABLE, HEATABLE, COOLABLE, SLICEABLE, frozenset(LAMPS))
APPLIANCES = ("sinkbasin", "microwave", "fridge")
"""Receptacle types that give the first three properties."""
ADJECTIVES = ((HOT, "hot"), (COOL, "cold"), (CLEAN, "clean"), (SLICED, "sliced"), (LIT, "lit"))
NOWHERE = -1
"""Place of an agent that stands in the middle of the room; also what empty hands hold."""


@dataclass(frozen=True, slots=True)
class Goal:
    """When a task counts as done."""

    objects: int
    """Mask of the objects that will do."""
    targets: int
    """Mask of the receptacles that will do."""
    lamps: int
    """Mask of the lamps that will do; zero where the task is not about light."""
    count: int
    mark: int | None
    """Property that the object must have."""


@dataclass(frozen=True, slots=True)
class Room:
    """What no action changes."""

    task: str
    grammar: str
    receptacles: tuple[str, ...]
    objects: tuple[str, ...]
    goal: Goal
    openable: int
    appliances: tuple[int, ...]
    """Masks of the receptacles that clean, heat and cool."""
    takes: tuple[int, ...]
    """Masks of the objects that can take on each property."""
    knives: int
    fits: tuple[int, ...]
    """For each object, the mask of the receptacles that it may be put into."""
    listing: str
    receptacle_numbers: Mapping[str, int] = field(compare=False, repr=False)
    object_numbers: Mapping[str, int] = field(compare=False, repr=False)
    going: tuple[str, ...] = field(compare=False, repr=False)
    """A command to go to each receptacle."""


@dataclass(frozen=True, slots=True)
class State:
    """A household at one moment, and what the agent knows of it."""

    room: Room
    at: int
    """Receptacle that the agent stands at."""
    holding: int
    contents: tuple[int, ...]
    """For each receptacle, the mask of the objects in it."""
    reachable: int
    """Mask of the receptacles whose inside can be reached: the open ones and those without door."""
    seen: int
    """Mask of the receptacles whose inside the agent has seen; nobody else moves things, so what
    was seen once is known from then on."""
    marks: tuple[int, ...]
    """For each property, the mask of the objects that have it."""


def bits(mask: int) -> Iterator[int]:
    """Yield the numbers in a mask, smallest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def build(task: Task, grammar: str) -> State:
    """Build the first state of a task.

    Raises:
        BadInput: the task's data lacks a field or names what is not there.
    """
    try:
        return _build(task, grammar)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"data of task `{task.id[:200]}`: {type(error).__name__}: {error}; wanted the fields "
            "of a household task; take one from `HouseholdTasks` as the pattern"
        ) from error


def _build(task: Task, grammar: str) -> State:
    data = task.data
    receptacles, objects = tuple(data["receptacles"]), tuple(data["objects"])
    numbers = {name: number for number, name in enumerate(receptacles)}
    kinds = [name.split(" ")[0] for name in receptacles]
    types = [name.split(" ")[0] for name in objects]
    of_kind: dict[str, int] = {}
    for number, kind in enumerate(kinds):
        of_kind[kind] = of_kind.get(kind, 0) | 1 << number
    openable = sum(mask for kind, mask in of_kind.items() if kind in OPENABLE)
    room = Room(
        task=task.instruction,
        grammar=grammar,
        receptacles=receptacles,
        objects=objects,
        goal=_goal(data, of_kind, types),
        openable=openable,
        appliances=tuple([of_kind.get(name, 0) for name in APPLIANCES]),
        takes=tuple([_mask(types, able) for able in TAKES_MARK]),
        knives=_mask(types, KNIVES),
        fits=tuple([_fits(name, of_kind) for name in types]),
        listing=_join(receptacles),
        receptacle_numbers=numbers,
        object_numbers={name: number for number, name in enumerate(objects)},
        going=tuple([f"go to {name}" for name in receptacles]),
    )
    contents = [0] * len(receptacles)
    for number, place in enumerate(data["objects"].values()):
        contents[numbers[place]] |= 1 << number
    closed = sum(1 << numbers[name] for name in data["closed"])
    everywhere = (1 << len(receptacles)) - 1
    return State(room, NOWHERE, NOWHERE, tuple(contents), everywhere & ~closed, 0, (0,) * 5)


def _goal(data: Mapping[str, Any], of_kind: Mapping[str, int], types: list[str]) -> Goal:
    kind = KINDS[data["type"]]
    lit = data["type"] == "look_at_obj_in_light"
    goal = Goal(
        objects=_mask(types, {data["object"]}),
        targets=0 if lit else of_kind[data["target"]],
        lamps=_mask(types, {data["target"]} & LAMPS.keys()) if lit else 0,
        count=kind.count,
        mark=APPLIANCES.index(kind.appliance) if kind.appliance else None,
    )
    if goal.objects.bit_count() < goal.count or not (goal.targets or goal.lamps):
        raise ValueError(f"too few of `{data['object']}` or no `{data['target']}`")
    return goal


def _mask(types: list[str], wanted: Set[str]) -> int:
    return sum([1 << number for number, name in enumerate(types) if name in wanted])


def _fits(name: str, of_kind: Mapping[str, int]) -> int:
    """Give the receptacles that an object may be put into; a lamp is never carried."""
    places = FITS.get(name, ())
    return sum([mask for kind, mask in of_kind.items() if kind in places])


# When the goal is met.


def suitable(state: State) -> int:
    """Give the mask of the objects that have the type and the property that the goal wants."""
    goal = state.room.goal
    return goal.objects if goal.mark is None else goal.objects & state.marks[goal.mark]


def achieved(state: State) -> bool:
    """Tell whether the goal is met."""
    goal = state.room.goal
    if goal.lamps:
        return _holds_goal(state) and _in_light(state)
    wanted = suitable(state)
    return wanted != 0 and any(
        (state.contents[place] & wanted).bit_count() >= goal.count for place in bits(goal.targets)
    )


def progress(state: State) -> float:
    """Give the fraction of the goal's conditions that are met; 1 exactly where it is achieved.

    The conditions are, by type of goal: each object in the same target; one and the same object
    has its property and is in a target; the object is held and the agent stands in the lamp's
    light.
    """
    goal = state.room.goal
    if goal.lamps:
        return (_holds_goal(state) + _in_light(state)) / 2
    placed = [state.contents[place] & goal.objects for place in bits(goal.targets)]
    if goal.mark is None:
        return min(max(mask.bit_count() for mask in placed), goal.count) / goal.count
    wanted = suitable(state)
    if any(mask & wanted for mask in placed):
        return 1.0
    return 0.5 if wanted or any(placed) else 0.0


def _holds_goal(state: State) -> bool:
    return state.holding >= 0 and bool(state.room.goal.objects >> state.holding & 1)


def _in_light(state: State) -> bool:
    lit = state.room.goal.lamps & state.marks[LIT]
    return state.at >= 0 and bool(state.contents[state.at] & lit)


# How it reads.


def _join(names: tuple[str, ...] | list[str]) -> str:
    if len(names) < 2:
        return f"a {names[0]}" if names else "nothing"
    return "a " + ", a ".join(names[:-1]) + f", and a {names[-1]}"


def welcome(state: State) -> str:
    """Give the first observation."""
    return (
        f"-= Welcome to TextWorld, ALFRED! =-\n\n{overview(state)}\n\n"
        f"Your task is to: {state.room.task}."
    )


def overview(state: State) -> str:
    """Say what is seen from where the agent stands."""
    if state.at >= 0:
        return (
            f"You are facing the {state.room.receptacles[state.at]}. Next to it, you see nothing."
        )
    return (
        "You are in the middle of a room. Looking quickly around you, you see "
        f"{state.room.listing}."
    )


def inside(state: State, place: int) -> str:
    """Say what is in or on a receptacle."""
    room = state.room
    name = room.receptacles[place]
    if not state.reachable >> place & 1:
        return f"The {name} is closed."
    listing = _join([room.objects[number] for number in bits(state.contents[place])])
    if room.openable >> place & 1:
        return f"The {name} is open. In it, you see {listing}."
    return f"On the {name}, you see {listing}."


def appearance(state: State, number: int) -> str:
    """Say what an object looks like."""
    name = state.room.objects[number]
    adjectives = [word for mark, word in ADJECTIVES if state.marks[mark] >> number & 1]
    if not adjectives:
        return f"There's nothing special about {name}."
    return f"This is a {' and '.join(adjectives)} {name}."
