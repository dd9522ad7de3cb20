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

VERSION = 1
"""Changes whenever the same text gives other rows: weights learnt under another are worthless."""
GOAL_WORDS = 6
"""Content words of a goal that are crossed one by one, counted from its end."""

_BASE = (
    # Of the candidate: its verb; the kinds of its first and last argument; where the goal names
    # its arguments, and whether; whether they were just seen; how often they were used; how often
    # the very action was taken; whether it is the first of its verb with nothing used; what the
    # goal names that was seen where its arguments were used.
    "verb", "kind", "target", "place", "named", "shown", "uses", "repeats", "first", "near",
    # Of the situation: the goal's other words; the verbs used; the last verb; the verbs on offer;
    # whether the last action was valid; which verbs could act on what the goal names.
    "manner", "used", "last", "offered", "valid", "reach",
    # The goal's content words, one by one.
    *(f"word{number}" for number in range(GOAL_WORDS)),
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
    # One salt for all the goal's words: what a word means does not depend on its place.
    *(f"verb word{number}" for number in range(GOAL_WORDS)),
    *(f"verb target word{number}" for number in range(GOAL_WORDS)),
    *(f"verb used word{number}" for number in range(GOAL_WORDS)),
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
_SALT = np.array(
    [[zlib.crc32(name.rstrip("0123456789").encode()) for name in TEMPLATES]], np.uint64
)


class Command(NamedTuple):
    """A candidate taken apart."""

    verb: int
    things: tuple[str, ...]
    """Arguments: entities such as `cabinet 3`, or single words where there are none."""
    kinds: tuple[str, ...]
    """The arguments without their numbers."""
    first: int
    """Code of the first argument's kind."""
    final: int
    """Code of the last argument's kind."""


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
    kinds = tuple(thing.split(" ")[0] for thing in things)
    ends = (code(kinds[0]), code(kinds[-1])) if kinds else (0, 0)
    return Command(code(verb), things, kinds, *ends)


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


class Memory:
    """What the turns of one episode tell of each thing; grows by a turn at a time."""

    def __init__(self, instruction: str) -> None:
        self.goal = goal_positions(instruction)
        words = [code(word) for word in self.goal][:GOAL_WORDS]
        self.words = (*words, *[0] * (GOAL_WORDS - len(words)))
        self.turns = 0
        self.uses: dict[str, int] = {}
        """How often an action named a thing."""
        self.near: dict[str, int] = {}
        """Code of the goal's words that were seen when an action last named the thing."""
        self.repeats: dict[str, int] = {}
        self.verbs: set[int] = set()
        self.used = self.last = 0
        self.valid = 2

    def note(self, turn: Turn, after: str) -> None:
        """Take in one more turn, and the observation that followed it."""
        done, seen = command(turn.action), mentioned(after)
        found = sum(1 << min(place, 8) for word, place in self.goal.items() if word in seen)
        for thing in done.things:
            self.uses[thing] = self.uses.get(thing, 0) + 1
            self.near[thing] = found
        self.repeats[turn.action] = self.repeats.get(turn.action, 0) + 1
        if done.verb not in self.verbs:
            self.verbs.add(done.verb)
            self.used = _set_code(self.verbs)
        self.last, self.valid = done.verb, int(turn.valid)
        self.turns += 1

    def catch_up(self, turns: Sequence[Turn], observation: str) -> None:
        """Take in the turns that are new; `observation` followed the last of them."""
        for index in range(self.turns, len(turns)):
            last = index + 1 == len(turns)
            self.note(turns[index], observation if last else turns[index + 1].observation)

    def of(self, things: tuple[str, ...], seen: frozenset[str]) -> tuple[int, int, int]:
        """Give the codes of whether things were just seen, were used, and of what was near."""
        shown = uses = near = 1
        for thing in things:
            shown = shown * 3 + (thing in seen)
            uses = uses * 3 + min(self.uses.get(thing, 0), 2)
            near = (near * 1021 + self.near.get(thing, 0)) & 0xFFFFFFFF
        return shown, uses, near


@lru_cache(maxsize=65536)
def _goal_codes(instruction: str, kinds: tuple[str, ...]) -> tuple[int, int]:
    """Give the codes of where the goal names the kinds, and of whether it does."""
    goal = goal_positions(instruction)
    place = named = 1
    for kind in kinds:
        position = goal.get(kind, 0)
        place, named = place * 17 + min(position, 16), named * 2 + (position > 0)
    return place, named


def features(
    instruction: str, memory: Memory, observation: str, candidates: Sequence[str], buckets: int
) -> NDArray[np.int64]:
    """Compute the features of each candidate.

    Returns:
        Indices below `buckets`, shape (candidates, templates).
    """
    seen = mentioned(observation)
    commands = [command(text) for text in candidates]
    kinds = {kind for one in commands for kind in one.kinds}
    manner = _set_code(code(word) for word in memory.goal if word not in kinds)
    offered = _set_code(one.verb for one in commands)
    known: dict[tuple[str, ...], tuple[int, int, int]] = {}
    fresh: set[int] = set()
    reach: set[int] = set()
    rows = []
    for text, one in zip(candidates, commands, strict=True):
        place, named = _goal_codes(instruction, one.kinds)
        if named > 1 << len(one.kinds):
            reach.add(one.verb + 31 * place)
        if one.things not in known:
            known[one.things] = memory.of(one.things, seen)
        shown, uses, near = known[one.things]
        first = one.verb not in fresh and uses == 3 ** len(one.things)
        if first:
            fresh.add(one.verb)
        repeats = min(memory.repeats.get(text, 0), 3)
        rows.append(
            (one.verb, one.first, one.final, place, named, shown, uses, repeats, first, near)
        )
    # Which verbs could act on what the goal names: tells a free hand from a full one.
    around = (
        manner, memory.used, memory.last, offered, memory.valid, _set_code(reach), *memory.words, 0
    )  # fmt: skip
    base = np.empty((len(candidates), len(_BASE)), dtype=np.uint64)
    base[:, : len(_BASE) - len(around)] = rows
    base[:, len(_BASE) - len(around) :] = around
    mixed = np.repeat(_SALT, len(candidates), axis=0)
    for parts in _PARTS.T:
        mixed = (mixed ^ base[:, parts]) * _MULTIPLIER
        mixed ^= mixed >> _SHIFT
    return (mixed % np.uint64(buckets)).astype(np.int64)
