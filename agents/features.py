"""Integer features of the actions on offer, from text alone: no environment is named here.

Each candidate gets a row of codes that cross its verb with what is known of its arguments (named by
the goal, seen just now, used before, found near something the goal names) and with the situation
(the verbs on offer, the verbs used, the goal's other words). A multiplicative hash turns the codes
into rows of an embedding table.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trialgym.records import Turn

_WORDS = re.compile(r"[a-z]+|\d+")
_ENTITIES = re.compile(r"[a-z]+ \d+")
_STOP = {"a", "an", "and", "at", "from", "in", "into", "it", "of", "on", "some", "that", "the"}
_STOP |= {"them", "then", "to", "two", "under", "up", "with"}
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)

_BASE = (
    # Of the candidate: its verb; the kinds of its first and last argument; where the goal names
    # its arguments, and whether; whether they were just seen; how often they were used; how often
    # the very action was taken; whether it is the first of its verb with nothing used; what the
    # goal names that was seen where its arguments were used.
    "verb", "kind", "target", "place", "named", "shown", "uses", "repeats", "first", "near",
    # Of the situation: the goal's other words; the verbs used; the last verb; the verbs on offer;
    # whether the last action was valid; which verbs could act on what the goal names.
    "manner", "used", "last", "offered", "valid", "reach",
    "",
)  # fmt: skip
TEMPLATES = (
    "verb",
    "verb kind",
    "verb target",
    "verb place",
    "verb named shown",
    "verb uses",
    "verb named uses",
    "verb repeats",
    "verb last",
    "verb named last",
    "verb first",
    "verb first offered",
    "verb near",
    "verb near offered",
    "verb offered",
    "verb manner",
    "verb manner used",
    "verb place manner used",
    "verb place offered",
    "verb place reach",
    "verb named reach used",
    "verb first near named reach",
    "verb valid repeats",
    "verb uses near named reach",
)
"""What is crossed; one embedding row each."""
_LONGEST = max(len(template.split()) for template in TEMPLATES)
_PARTS = np.array(
    [
        [_BASE.index(name) for name in template.split()]
        + [_BASE.index("")] * (_LONGEST - len(template.split()))
        for template in TEMPLATES
    ]
)
_SALT = np.arange(1, len(TEMPLATES) + 1, dtype=np.uint64)


class Command(NamedTuple):
    """A candidate taken apart."""

    verb: int
    things: tuple[str, ...]
    """Arguments: entities such as `cabinet 3`, or single words where there are none."""
    kinds: tuple[str, ...]
    """The arguments without their numbers."""


def code(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "replace"))


@lru_cache(maxsize=65536)
def command(text: str) -> Command:
    """Take an action apart into verb and arguments."""
    lowered = text.lower()
    words = _WORDS.findall(lowered)
    verb = words[0] if words else ""
    rest = lowered.partition(verb)[2]
    things = tuple(_ENTITIES.findall(rest))
    if not things:
        things = tuple(word for word in _WORDS.findall(rest) if word not in _STOP)[:3]
    return Command(code(verb), things, tuple(thing.split(" ")[0] for thing in things))


@lru_cache(maxsize=65536)
def mentioned(text: str) -> frozenset[str]:
    """Give every word and entity of a text."""
    lowered = text.lower()
    return frozenset(_WORDS.findall(lowered)) | frozenset(_ENTITIES.findall(lowered))


@lru_cache(maxsize=4096)
def goal_positions(instruction: str) -> dict[str, int]:
    """Number the goal's content words from the end, from 1: what a goal ends on is its target."""
    words = [word for word in _WORDS.findall(instruction.lower()) if word not in _STOP]
    return {word: place for place, word in enumerate(reversed(words), 1)}


def _set_code(items: Iterable[int]) -> int:
    total = 0
    for item in set(items):
        total = (total + (item ^ (item >> 7)) * 2654435761) & 0xFFFFFFFF
    return total


class _Past(NamedTuple):
    """What the turns so far tell of each thing."""

    uses: dict[str, int]
    """How often an action named it."""
    near: dict[str, int]
    """Code of the goal's words that were seen when an action last named it."""
    repeats: dict[str, int]
    verbs: int
    """Code of the set of verbs used."""
    last_verb: int
    last_valid: int


def _past(goal: dict[str, int], turns: Sequence[Turn], observation: str) -> _Past:
    uses: dict[str, int] = {}
    near: dict[str, int] = {}
    repeats: dict[str, int] = {}
    verbs = set()
    for index, turn in enumerate(turns):
        done = command(turn.action)
        after = turns[index + 1].observation if index + 1 < len(turns) else observation
        seen = mentioned(after)
        found = sum(1 << min(place, 8) for word, place in goal.items() if word in seen)
        for thing in done.things:
            uses[thing] = uses.get(thing, 0) + 1
            near[thing] = found
        repeats[turn.action] = repeats.get(turn.action, 0) + 1
        verbs.add(done.verb)
    last = turns[-1] if turns else None
    return _Past(
        uses, near, repeats, _set_code(verbs),
        command(last.action).verb if last else 0, int(last.valid) if last else 2,
    )  # fmt: skip


def features(
    instruction: str,
    turns: Sequence[Turn],
    observation: str,
    candidates: Sequence[str],
    buckets: int,
) -> NDArray[np.int64]:
    """Compute the features of each candidate.

    Returns:
        Indices below `buckets`, shape (candidates, templates).
    """
    goal = goal_positions(instruction)
    past = _past(goal, turns, observation)
    seen = mentioned(observation)
    commands = [command(text) for text in candidates]
    kinds = {kind for one in commands for kind in one.kinds}
    manner = _set_code(code(word) for word in goal if word not in kinds)
    named = [tuple(goal.get(kind, 0) for kind in one.kinds) for one in commands]
    offered = _set_code(one.verb for one in commands)
    # Which verbs could act on what the goal names: tells a free hand from a full one.
    reach = _set_code(
        one.verb + 31 * _pattern(names) for one, names in zip(commands, named, strict=True)
        if any(names)
    )  # fmt: skip
    fresh: set[int] = set()
    rows = []
    for text, one, names in zip(candidates, commands, named, strict=True):
        uses = _pattern(min(past.uses.get(thing, 0), 2) for thing in one.things)
        first = 0
        if not uses and one.verb not in fresh:
            fresh.add(one.verb)
            first = 1
        rows.append(
            (
                one.verb,
                code(one.kinds[0]) if one.kinds else 0,
                code(one.kinds[-1]) if one.kinds else 0,
                _pattern(names),
                _pattern(int(name > 0) for name in names),
                _pattern(int(thing in seen) for thing in one.things),
                uses,
                min(past.repeats.get(text, 0), 3),
                first,
                _pattern(past.near.get(thing, 0) for thing in one.things),
            )
        )
    around = (manner, past.verbs, past.last_verb, offered, past.last_valid, reach, 0)
    base = np.empty((len(candidates), len(_BASE)), dtype=np.uint64)
    base[:, : len(_BASE) - len(around)] = rows
    base[:, len(_BASE) - len(around) :] = around
    mixed = np.broadcast_to(_SALT, (len(candidates), len(TEMPLATES)))
    for part in range(_PARTS.shape[1]):
        mixed = (mixed ^ base[:, _PARTS[:, part]]) * _MULTIPLIER
        mixed ^= mixed >> _SHIFT
    return (mixed % np.uint64(buckets)).astype(np.int64)


def _pattern(values: Iterable[int]) -> int:
    total = 1
    for value in values:
        total = (total * 1021 + value + 1) & 0xFFFFFFFF
    return total
