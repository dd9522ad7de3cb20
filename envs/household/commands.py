"""What can be done in a household: every command, what it does, and which ones work now."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from trialgym.core import ActionSpec

from .world import (
    CLEAN,
    COOL,
    HOT,
    LIT,
    NOWHERE,
    SLICED,
    State,
    appearance,
    bits,
    inside,
    overview,
)

Result = tuple[State, str] | None
"""The state after a command and what is seen; None where the command does nothing."""
Handler = Callable[[State, str, str], Result]

NOTHING = "Nothing happens."
PLACING = MappingProxyType(
    {"move": "move {object} to {receptacle}", "put": "put {object} in/on {receptacle}"}
)
"""The command that puts an object down, by grammar."""

_PLACING = "placing"

PATTERNS: tuple[tuple[str, str], ...] = (
    ("go to {receptacle}", "walk to a receptacle and see what is on it, or in it if it is open"),
    ("open {receptacle}", "open the receptacle where you stand"),
    ("close {receptacle}", "close the receptacle where you stand"),
    ("take {object} from {receptacle}", "pick up an object that you see; you carry one at most"),
    (_PLACING, "put down the object that you carry"),
    ("clean {object} with {receptacle}", "clean the object that you carry, at a sinkbasin"),
    ("heat {object} with {receptacle}", "heat the object that you carry, at a microwave"),
    ("cool {object} with {receptacle}", "cool the object that you carry, at a fridge"),
    ("slice {object} with {tool}", "slice an object that you see with the knife that you carry"),
    ("use {object}", "switch on a lamp that you see"),
    ("examine {thing}", "look at the receptacle where you stand, or at an object"),
    ("inventory", "see what you carry"),
    ("look", "see where you stand"),
    ("help", "read this list"),
)
"""Every command and what it is for; the grammar's own way to put things down is filled in."""
EXAMPLES = MappingProxyType(
    {
        "receptacle": "a receptacle with its number, such as `cabinet 3`",
        "object": "an object with its number, such as `apple 1`",
        "tool": "a knife with its number, such as `knife 1`",
        "thing": "a receptacle or an object with its number, such as `fridge 1`",
    }
)


def act(state: State, command: str) -> Result:
    """Carry out a command; None where it is not understood or not possible."""
    if len(command) > 200 or not command.isascii():
        return None
    words = command.strip(" \t\r\n").lower().split(" ")
    handlers = HANDLERS[state.room.grammar]
    match words:
        case [verb]:
            handler, first, second = handlers.get(verb), "", ""
        case [verb, name, number]:
            handler, first, second = handlers.get(verb + " _"), f"{name} {number}", ""
        case ["go", "to", name, number]:
            handler, first, second = _go, f"{name} {number}", ""
        case [verb, name, number, link, place, place_number]:
            handler = handlers.get(f"{verb} _ {link} _")
            first, second = f"{name} {number}", f"{place} {place_number}"
        case _:
            return None
    return handler(state, first, second) if handler else None


def _look(state: State, first: str, second: str) -> Result:
    return state, overview(state)


def _inventory(state: State, first: str, second: str) -> Result:
    if state.holding < 0:
        return state, "You are not carrying anything."
    return state, f"You are carrying: a {state.room.objects[state.holding]}."


def _help(state: State, first: str, second: str) -> Result:
    return state, grammar(state.room.grammar).grammar


def _go(state: State, first: str, second: str) -> Result:
    room = state.room
    place = room.receptacle_numbers.get(first)
    if place is None or place == state.at:
        return None
    seen = state.seen | (state.reachable & 1 << place)
    after = State(room, place, state.holding, state.contents, state.reachable, seen, state.marks)
    arrival = first if room.grammar == "move" else f"loc {place + 1}"
    return after, f"You arrive at {arrival}. {inside(after, place)}"


def _open(state: State, first: str, second: str) -> Result:
    room, place = state.room, state.room.receptacle_numbers.get(first)
    if place is None or place != state.at or state.reachable >> place & 1:
        return None
    bit = 1 << place
    after = State(
        room,
        place,
        state.holding,
        state.contents,
        state.reachable | bit,
        state.seen | bit,
        state.marks,
    )
    return after, f"You open the {first}. {inside(after, place)}"


def _close(state: State, first: str, second: str) -> Result:
    room, place = state.room, state.room.receptacle_numbers.get(first)
    if place is None or place != state.at:
        return None
    bit = 1 << place
    if not state.reachable & room.openable & bit:
        return None
    after = State(
        room,
        place,
        state.holding,
        state.contents,
        state.reachable ^ bit,
        state.seen,
        state.marks,
    )
    return after, f"You close the {first}."


def _take(state: State, first: str, second: str) -> Result:
    room, number = state.room, state.room.object_numbers.get(first)
    if number is None or state.holding >= 0 or not room.fits[number]:
        return None
    if not _sees(state, number) or room.receptacles[state.at] != second:
        return None
    after = _with_contents(state, number, number)
    return after, f"You pick up the {first} from the {second}."


def _put(state: State, first: str, second: str) -> Result:
    room, number = state.room, state.room.object_numbers.get(first)
    if number is None or number != state.holding or not _can_put(state):
        return None
    if room.receptacles[state.at] != second:
        return None
    after = _with_contents(state, NOWHERE, number)
    feedback = "move the {} to" if room.grammar == "move" else "put the {} in/on"
    return after, f"You {feedback.format(first)} the {second}."


def _process(mark: int, verb: str) -> Handler:
    def handler(state: State, first: str, second: str) -> Result:
        room, number = state.room, state.room.object_numbers.get(first)
        if number is None or number != state.holding or not _can_process(state, mark):
            return None
        if room.receptacles[state.at] != second:
            return None
        return _marked(state, mark, number), f"You {verb} the {first} using the {second}."

    return handler


def _use(state: State, first: str, second: str) -> Result:
    number = state.room.object_numbers.get(first)
    if number is None or not _sees(state, number) or not _unlit(state) >> number & 1:
        return None
    return _marked(state, LIT, number), f"You turn on the {first}."


def _slice(state: State, first: str, second: str) -> Result:
    room, number = state.room, state.room.object_numbers.get(first)
    if number is None or not _sees(state, number) or not _whole(state) >> number & 1:
        return None
    if room.object_numbers.get(second) != state.holding or not _holds_knife(state):
        return None
    return _marked(state, SLICED, number), f"You sliced the {first} with the {second}."


def _examine(state: State, first: str, second: str) -> Result:
    place = state.room.receptacle_numbers.get(first)
    if place is not None:
        return (state, inside(state, place)) if place == state.at else None
    number = state.room.object_numbers.get(first)
    if number is None or not (number == state.holding or _sees(state, number)):
        return None
    return state, appearance(state, number)


def _shared(placing: str) -> Mapping[str, Handler]:
    return MappingProxyType(
        {
            "look": _look,
            "inventory": _inventory,
            "help": _help,
            "open _": _open,
            "close _": _close,
            "use _": _use,
            "examine _": _examine,
            "take _ from _": _take,
            placing: _put,
            "clean _ with _": _process(CLEAN, "clean"),
            "heat _ with _": _process(HOT, "heat"),
            "cool _ with _": _process(COOL, "cool"),
            "slice _ with _": _slice,
        }
    )


HANDLERS = MappingProxyType({"move": _shared("move _ to _"), "put": _shared("put _ in/on _")})
"""By grammar, what carries out each form of command."""


# What is possible now.


def visible(state: State) -> int:
    """Give the mask of the objects in or on the receptacle where the agent stands."""
    if state.at < 0 or not state.reachable >> state.at & 1:
        return 0
    return state.contents[state.at]


def _sees(state: State, number: int) -> bool:
    return bool(visible(state) >> number & 1)


def _can_put(state: State) -> bool:
    room, at = state.room, state.at
    if at < 0 or state.holding < 0:
        return False
    return bool(room.fits[state.holding] & state.reachable & 1 << at)


def _can_process(state: State, mark: int) -> bool:
    room = state.room
    if state.at < 0 or not room.appliances[mark] >> state.at & 1:
        return False
    return bool(room.takes[mark] >> state.holding & 1)


def _holds_knife(state: State) -> bool:
    return state.holding >= 0 and bool(state.room.knives >> state.holding & 1)


def _unlit(state: State) -> int:
    return state.room.takes[LIT] & ~state.marks[LIT]


def _whole(state: State) -> int:
    return state.room.takes[SLICED] & ~state.marks[SLICED]


def _with_contents(state: State, holding: int, number: int) -> State:
    """Give the state after an object changed between the hand and the place of the agent."""
    contents, at = state.contents, state.at
    return State(
        state.room,
        at,
        holding,
        (*contents[:at], contents[at] ^ 1 << number, *contents[at + 1 :]),
        state.reachable,
        state.seen,
        state.marks,
    )


def _marked(state: State, mark: int, number: int) -> State:
    """Give the state after an object took on a property; heat undoes cold and cold undoes heat."""
    bit, marks = 1 << number, list(state.marks)
    marks[mark] |= bit
    if mark in (HOT, COOL):
        marks[HOT + COOL - mark] &= ~bit
    return State(
        state.room,
        state.at,
        state.holding,
        state.contents,
        state.reachable,
        state.seen,
        tuple(marks),
    )


def admissible(state: State) -> tuple[str, ...]:
    """List every command that works now, `help` left out: by verb, then in the room's order."""
    room, at, held = state.room, state.at, state.holding
    if at < 0:
        return (*room.going, "inventory", "look")
    here, name = room.receptacles[at], ""
    seen = [room.objects[number] for number in bits(visible(state))]
    commands: list[str] = []
    if held >= 0:
        name = room.objects[held]
        if _can_process(state, CLEAN):
            commands.append(f"clean {name} with {here}")
    openable = room.openable >> at & 1
    reachable = state.reachable >> at & 1
    if openable and reachable:
        commands.append(f"close {here}")
    if held >= 0 and _can_process(state, COOL):
        commands.append(f"cool {name} with {here}")
    commands.append(f"examine {here}")
    if held >= 0:
        commands.append(f"examine {name}")
    commands += [f"examine {thing}" for thing in seen]
    commands += room.going[:at]
    commands += room.going[at + 1 :]
    if held >= 0 and _can_process(state, HOT):
        commands.append(f"heat {name} with {here}")
    commands += ("inventory", "look")
    if openable and not reachable:
        commands.append(f"open {here}")
    if _can_put(state):
        commands.append(PLACING[room.grammar].format(object=name, receptacle=here))
    if _holds_knife(state):
        commands += [
            f"slice {room.objects[number]} with {name}"
            for number in bits(visible(state) & _whole(state))
        ]
    if held < 0:
        commands += [
            f"take {room.objects[number]} from {here}"
            for number in bits(visible(state))
            if room.fits[number]
        ]
    commands += [f"use {room.objects[number]}" for number in bits(visible(state) & _unlit(state))]
    return tuple(commands)


# What an agent is told.


def grammar(name: str) -> ActionSpec:
    """Describe the commands of a grammar in prose and as tools."""
    own = {_PLACING: PLACING[name]}
    rows = [(own.get(pattern, pattern), purpose) for pattern, purpose in PATTERNS]
    lines = [f"- {pattern}: {purpose}" for pattern, purpose in rows]
    prose = (
        "One command a turn, in exactly one of these forms; every name ends in its number, "
        "such as `cabinet 3` or `apple 1`:\n"
        + "\n".join(lines)
        + f"\nA command that cannot be carried out is answered `{NOTHING}`"
    )
    return ActionSpec(prose, tuple(_tool(pattern, purpose) for pattern, purpose in rows))


def _tool(pattern: str, purpose: str) -> Mapping[str, Any]:
    head, *rest = pattern.split("{")
    arguments = [part.split("}")[0] for part in rest]
    return {
        "type": "function",
        "function": {
            "name": head.strip().replace(" ", "_"),
            "description": f"{purpose}; written `{pattern}`",
            "parameters": {
                "type": "object",
                "properties": {
                    argument: {"type": "string", "description": EXAMPLES[argument]}
                    for argument in arguments
                },
                "required": arguments,
                "additionalProperties": False,
            },
        },
    }
