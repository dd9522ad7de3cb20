"""The household expert: acts on what the agent could know, from any state.

It reads only what has been seen: the receptacles' names, the contents of those in `State.seen`, and
the objects in hand. Its rules, the first that fits:

1. A wrong object in hand is put down, here if it may be, else at the first receptacle that may
   hold it.
2. The goal's object in hand is cleaned, heated or cooled where that is asked for, and then carried
   to the target; for the light task, to the lamp.
3. The goal's object that has been seen is fetched.
4. Otherwise the first receptacle of the listing that has not been seen yet is looked into.
"""

from .commands import PLACING
from .world import CLEAN, COOL, HOT, State, bits, suitable

_VERBS = {CLEAN: "clean", HOT: "heat", COOL: "cool"}


def solve(state: State) -> str:
    """Give the next action."""
    goal = state.room.goal
    if state.holding < 0:
        return _fetch(state)
    if not goal.objects >> state.holding & 1:
        return _put_down(state)
    if goal.lamps:
        return _light(state)
    if goal.mark is not None and not suitable(state) >> state.holding & 1:
        return _process(state, goal.mark)
    return _put(state, _target(state))


def _fetch(state: State) -> str:
    room = state.room
    wanted, target = room.goal.objects, -1
    if room.goal.count > 1:
        target = _target(state)
    places = [
        place for place in bits(state.seen) if place != target and state.contents[place] & wanted
    ]
    if not places:
        return _search(state)
    place = state.at if state.at in places else places[0]
    if state.at != place:
        return room.going[place]
    if not state.reachable >> place & 1:
        return f"open {room.receptacles[place]}"
    # One that has its property already saves the way to the appliance.
    choice = state.contents[place] & suitable(state) or state.contents[place] & wanted
    return f"take {room.objects[next(bits(choice))]} from {room.receptacles[place]}"


def _search(state: State) -> str:
    """Look into the first receptacle of the listing that has not been seen yet."""
    room = state.room
    unseen = ~state.seen & (1 << len(room.receptacles)) - 1
    if not unseen:
        return "look"
    if state.at >= 0 and unseen >> state.at & 1:
        return f"open {room.receptacles[state.at]}"
    return room.going[next(bits(unseen))]


def _target(state: State) -> int:
    """Choose the target that is known to hold the most of the goal's objects, else the first."""
    goal = state.room.goal
    return max(
        bits(goal.targets),
        key=lambda place: (
            (state.contents[place] & goal.objects).bit_count() if state.seen >> place & 1 else 0
        ),
    )


def _put(state: State, place: int) -> str:
    room, name = state.room, state.room.objects[state.holding]
    if state.at != place:
        return room.going[place]
    if not state.reachable >> place & 1:
        return f"open {room.receptacles[place]}"
    return PLACING[room.grammar].format(object=name, receptacle=room.receptacles[place])


def _put_down(state: State) -> str:
    fits = state.room.fits[state.holding]
    here = state.at if state.at >= 0 and fits >> state.at & 1 else next(bits(fits))
    return _put(state, here)


def _process(state: State, mark: int) -> str:
    room = state.room
    places = room.appliances[mark]
    if state.at < 0 or not places >> state.at & 1:
        return room.going[next(bits(places))]
    name, place = room.objects[state.holding], room.receptacles[state.at]
    return f"{_VERBS[mark]} {name} with {place}"


def _light(state: State) -> str:
    room = state.room
    for place in bits(state.seen):
        lamps = state.contents[place] & room.goal.lamps
        if not lamps:
            continue
        if state.at != place:
            return room.going[place]
        return f"use {room.objects[next(bits(lamps))]}"
    return _search(state)
