"""Household tasks without end: a pure function of split and index.

The index picks the task type and the difficulty, so that any run of 18 neighbours holds every type
at every difficulty once. The rest is drawn from a private generator. Two rules keep the splits
apart by content:

- a room's layout (its kind, and how many receptacles of each type it has) belongs, by its hash, to
  training, to validation or to the tests, and to one of them only;
- a pair of goal object and goal target is, by its hash, held out for `test_unseen` or not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from types import MappingProxyType
from typing import Any, TypeVar

from trialgym.core import Task, TaskSet, seed_of

from .rooms import (
    CLEANABLE,
    COOLABLE,
    FITS,
    HEATABLE,
    LAMPS,
    LIT_ROOMS,
    OBJECTS,
    OPENABLE,
    ROOMS,
)

Item = TypeVar("Item")
Layout = dict[str, int]
"""How many receptacles of each type a room has."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One of ALFWorld's six task types."""

    objects: frozenset[str]
    appliance: str = ""
    """Receptacle type that does the work, where there is work; never the target."""
    count: int = 1
    templates: tuple[str, ...] = ("put a {} in {}", "put some {} on {}")


KINDS = MappingProxyType(
    {
        "pick_and_place": Kind(frozenset(FITS)),
        "pick_clean_then_place": Kind(
            CLEANABLE,
            "sinkbasin",
            templates=("put a clean {} in {}", "clean some {} and put it in {}"),
        ),
        "pick_heat_then_place": Kind(
            HEATABLE,
            "microwave",
            templates=("put a hot {} in {}", "heat some {} and put it in {}"),
        ),
        "pick_cool_then_place": Kind(
            COOLABLE,
            "fridge",
            templates=("put a cool {} in {}", "cool some {} and put it in {}"),
        ),
        "look_at_obj_in_light": Kind(
            frozenset(FITS),
            templates=("look at {} under the {}", "examine the {} with the {}"),
        ),
        "pick_two_obj": Kind(
            frozenset(FITS),
            count=2,
            templates=("put two {} in {}", "find two {} and put them in {}"),
        ),
    }
)
NAMES = tuple(KINDS)


@dataclass(frozen=True, slots=True)
class Level:
    """How large and how full a room is."""

    receptacles: tuple[int, int]
    objects: tuple[int, int]
    closed: int
    """Most receptacles that stand closed; every other openable one stands open."""
    spare: int
    """Most objects of the goal's type beyond those that the goal needs."""


LEVELS = MappingProxyType(
    {
        1: Level((6, 8), (8, 10), closed=2, spare=0),
        2: Level((8, 11), (10, 14), closed=4, spare=1),
        3: Level((11, 14), (14, 18), closed=6, spare=2),
    }
)

SHARES = MappingProxyType(
    {"train": range(3, 10), "validation": range(1), "test": range(1, 3), "test_unseen": range(1, 3)}
)
"""Which tenths of all layouts a split draws from."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a task asks for, and in which kind of room."""

    room: str
    object: str
    target: str
    """Receptacle type to put it in; for the light task, the type of lamp."""


@cache
def held_out(object_type: str, target: str) -> bool:
    """Tell whether a pair of goal object and goal target occurs in `test_unseen` only."""
    return seed_of("household pair", object_type, target) % 5 == 0


def layout_tenth(room: str, layout: Layout) -> int:
    """Hash a layout into one of ten classes."""
    return seed_of("household layout", room, json.dumps(sorted(layout.items()))) % 10


def targets(kind: str, room: str, object_type: str) -> list[str]:
    """List the targets that a goal of this type may name."""
    if kind == "look_at_obj_in_light":
        return sorted(LAMPS) if room in LIT_ROOMS else []
    appliance = KINDS[kind].appliance
    if appliance and appliance not in ROOMS[room]:
        return []
    return sorted((FITS[object_type] & ROOMS[room].keys()) - {appliance})


@cache
def aims(kind: str, unseen: bool) -> tuple[Aim, ...]:
    """List every aim of a task type, the held-out ones or the others."""
    return tuple(
        Aim(room, name, target)
        for room in ROOMS
        for name in OBJECTS[room]
        if name in KINDS[kind].objects
        for target in targets(kind, room, name)
        if held_out(name, target) == unseen
    )


class Draw:
    """A private generator. Only `random()` is used: Python promises its sequence for ever."""

    def __init__(self, *parts: object) -> None:
        self._random = Random(seed_of(*parts)).random

    def between(self, least: int, most: int) -> int:
        return least + int(self._random() * (most - least + 1))

    def one(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """Take `count` different items, or all where there are fewer."""
        rest = list(items)
        return [rest.pop(int(self._random() * len(rest))) for _ in range(min(count, len(items)))]


class HouseholdTasks(TaskSet):
    """Generated tasks of ALFWorld's six types."""

    name = "household"
    env = "trialgym/Household-v0"
    splits: Mapping[str, int | None] = MappingProxyType(
        {"train": None, "validation": 1000, "test": 1000, "test_unseen": 1000}
    )

    def build(self, split: str, index: int) -> Task:
        kind, difficulty = NAMES[index % 6], index // 6 % 3 + 1
        draw = Draw(self.name, split, index)
        data = None
        while data is None:
            aim = draw.one(aims(kind, split == "test_unseen"))
            layout = _layout(draw, aim, LEVELS[difficulty])
            if layout_tenth(aim.room, layout) in SHARES[split]:
                data = _furnish(draw, kind, aim, layout, LEVELS[difficulty])
        instruction = draw.one(KINDS[kind].templates).format(aim.object, aim.target)
        return Task(
            self.task_id(split, index),
            self.env,
            split,
            instruction,
            {"difficulty": difficulty, **data},
        )

    def content(self, task: Task) -> str:
        """Leave the wording out: the same goal in the same room is the same task."""
        return json.dumps(dict(task.data), sort_keys=True)


def _layout(draw: Draw, aim: Aim, level: Level) -> Layout:
    table = ROOMS[aim.room]
    layout = {name: least for name, (least, _) in table.items() if least}
    if aim.target in table:
        layout.setdefault(aim.target, 1)
    room_for = [
        name for name, (_, most) in table.items() for _ in range(most - layout.get(name, 0))
    ]
    missing = draw.between(*level.receptacles) - sum(layout.values())
    for name in draw.some(room_for, missing):
        layout[name] = layout.get(name, 0) + 1
    return layout


def _furnish(
    draw: Draw, kind: str, aim: Aim, layout: Layout, level: Level
) -> dict[str, Any] | None:
    """Fill a room; None where the goal's object would have no place but the target."""
    names = [f"{name} {n}" for name in sorted(layout) for n in range(1, layout[name] + 1)]
    openable = [name for name in names if name.split(" ")[0] in OPENABLE]
    homes = sorted((FITS[aim.object] - {aim.target}) & layout.keys())
    if not homes:
        return None
    objects = _objects(draw, kind, aim, layout, level)
    placed: list[tuple[str, str]] = []
    for name in objects:
        allowed = homes if name == aim.object else sorted(_homes(name) & layout.keys())
        home = draw.one([home for home in allowed for _ in range(layout[home])])
        placed.append((name, f"{home} {draw.between(1, layout[home])}"))
    closed = set(draw.some(openable, level.closed))
    return {
        "type": kind,
        "room": aim.room,
        "object": aim.object,
        "target": aim.target,
        "receptacles": names,
        "closed": [name for name in names if name in closed],
        "objects": _numbered(placed),
    }


def _numbered(placed: list[tuple[str, str]]) -> dict[str, str]:
    """Give every object its number among those of its type, and keep where it stands."""
    numbers: dict[str, int] = {}
    contents = {}
    for name, place in sorted(placed, key=lambda pair: pair[0]):
        numbers[name] = numbers.get(name, 0) + 1
        contents[f"{name} {numbers[name]}"] = place
    return contents


def _homes(name: str) -> frozenset[str]:
    return LAMPS[name] if name in LAMPS else FITS[name]


def _objects(draw: Draw, kind: str, aim: Aim, layout: Layout, level: Level) -> list[str]:
    """Draw the types of the objects that stand in the room, the goal's own first."""
    objects = [aim.object] * (KINDS[kind].count + draw.between(0, level.spare))
    if kind == "look_at_obj_in_light":
        objects.append(aim.target)
    if aim.room in LIT_ROOMS and draw.between(1, 3) == 1:
        objects.append(draw.one(sorted(LAMPS)))
    others = [
        name
        for name in OBJECTS[aim.room]
        if name != aim.object and not FITS[name].isdisjoint(layout)
    ]
    total = draw.between(*level.objects)
    objects += [draw.one(others) for _ in range(total - len(objects))]
    return objects
