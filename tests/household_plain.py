"""A second, plain household for the tests: a room by hand, every command of it, and its rules."""

from trialgym import Task
from trialgym.envs.household import Household
from trialgym.envs.household.rooms import FITS, KNIVES, LAMPS, OPENABLE
from trialgym.envs.household.tasks import KINDS


def kitchen(kind="pick_heat_then_place", object="egg", target="countertop", **objects):
    """Lay out a small room by hand; `fridge 1` and `cabinet 1` are closed."""
    contents = objects or {
        "apple 1": "countertop 1",
        "desklamp 1": "desk 1",
        "egg 1": "fridge 1",
        "egg 2": "desk 1",
        "knife 1": "countertop 1",
        "mug 1": "sinkbasin 1",
    }
    names = ["cabinet 1", "countertop 1", "desk 1", "fridge 1", "microwave 1", "sinkbasin 1"]
    data = {
        "type": kind,
        "object": object,
        "target": target,
        "receptacles": names,
        "closed": ["cabinet 1", "fridge 1"],
        "objects": contents,
    }
    template = KINDS[kind].templates[0]
    return Task("mine/hand/000000", "", "hand", template.format(object, target), data)


def play(task, script, **options):
    """Play a script of commands and give every (observation, info, reward, terminated)."""
    env = Household(**options)
    env.reset(options={"task": task})
    turns = []
    for command in script:
        observation, reward, terminated, _, info = env.step(command)
        turns.append((observation, info, reward, terminated))
    return turns


def says(task, script, **options):
    return [turn[0] for turn in play(task, script, **options)]


def universe(room):
    """Every command that names things of a room, right or wrong, in both grammars."""
    places, objects = room.receptacles, room.objects
    things = places + objects
    yield from ("look", "inventory", "help", "", "go", "take", "slice", "wait")
    for verb in ("go to", "open", "close", "examine", "use", "take", "look"):
        yield from (f"{verb} {thing}" for thing in things)
    for one in things:
        for other in things:
            for form in (
                "take {} from {}",
                "move {} to {}",
                "put {} in/on {}",
                "clean {} with {}",
                "heat {} with {}",
                "cool {} with {}",
                "slice {} with {}",
            ):
                yield form.format(one, other)


def wander(env, generator, turns):
    """Take admissible actions, those that change things preferred; stop when the goal is met."""
    for _ in range(turns):
        valid = env.admissible(env._state)
        changing = [c for c in valid if not c.startswith(("examine", "look", "inv", "go"))]
        choice = changing if changing and generator.random() < 0.6 else valid
        if env.step(generator.choice(choice))[2]:
            return False
    return True


class PlainWorld:
    """The rules once more, with dictionaries of names; only the tables are shared."""

    def __init__(self, task, grammar):
        self.data, self.grammar = task.data, grammar
        self.where = dict(task.data["objects"])
        self.closed = set(task.data["closed"])
        self.at = self.held = None
        self.marks = {name: set() for name in self.where}

    def contents(self, place):
        return [name for name in self.data["objects"] if self.where[name] == place]

    def sees(self, name):
        return self.at and self.at not in self.closed and self.where.get(name) == self.at

    def describe(self, place):
        if place in self.closed:
            return f"The {place} is closed."
        names = ["a " + name for name in self.contents(place)] or ["nothing"]
        listing = (
            ", ".join(names) if len(names) < 2 else ", ".join(names[:-1]) + f", and {names[-1]}"
        )
        if place.split()[0] in OPENABLE:
            return f"The {place} is open. In it, you see {listing}."
        return f"On the {place}, you see {listing}."

    def do(self, command):
        """Give the feedback, or None where nothing happens."""
        words = command.split(" ")
        verb, two, last = words[0], " ".join(words[1:3]), " ".join(words[-2:])
        at, places = self.at, self.data["receptacles"]
        if command == "look":
            names = ["a " + name for name in places]
            listing = ", ".join(names[:-1]) + f", and {names[-1]}"
            middle = "You are in the middle of a room. Looking quickly around you, you see "
            facing = f"You are facing the {at}. Next to it, you see nothing."
            return facing if at else f"{middle}{listing}."
        if command == "inventory":
            return (
                f"You are carrying: a {self.held}."
                if self.held
                else "You are not carrying anything."
            )
        if command == f"go to {last}" and last in places and last != at:
            self.at = last
            arrival = last if self.grammar == "move" else f"loc {places.index(last) + 1}"
            return f"You arrive at {arrival}. {self.describe(last)}"
        if command == f"open {at}" and at in self.closed:
            self.closed.remove(at)
            return f"You open the {at}. {self.describe(at)}"
        if command == f"close {at}" and at.split()[0] in OPENABLE and at not in self.closed:
            self.closed.add(at)
            return f"You close the {at}."
        if verb == "examine" and len(words) == 3:
            if two == at:
                return self.describe(at)
            if two == self.held or self.sees(two):
                order = ("hot", "cold", "clean", "sliced", "lit")
                marks = [word for word in order if word in self.marks[two]]
                plain = f"There's nothing special about {two}."
                return f"This is a {' and '.join(marks)} {two}." if marks else plain
        if command == f"take {two} from {at}" and not self.held and self.sees(two):
            if two.split()[0] in LAMPS:
                return None
            self.held, self.where[two] = two, None
            return f"You pick up the {two} from the {at}."
        if self.held and at:
            put = "move {} to {}" if self.grammar == "move" else "put {} in/on {}"
            fits = at.split()[0] in FITS[self.held.split()[0]] and at not in self.closed
            if command == put.format(self.held, at) and fits:
                name, self.held = self.held, None
                self.where[name] = at
                word = "move" if self.grammar == "move" else "put"
                link = "to" if self.grammar == "move" else "in/on"
                return f"You {word} the {name} {link} the {at}."
            for work, place, mark, other, able in (
                ("clean", "sinkbasin", "clean", "", KINDS["pick_clean_then_place"].objects),
                ("heat", "microwave", "hot", "cold", KINDS["pick_heat_then_place"].objects),
                ("cool", "fridge", "cold", "hot", KINDS["pick_cool_then_place"].objects),
            ):
                right = at.split()[0] == place and self.held.split()[0] in able
                if command == f"{work} {self.held} with {at}" and right:
                    self.marks[self.held] = self.marks[self.held] - {other} | {mark}
                    return f"You {work} the {self.held} using the {at}."
        lamp = self.sees(two) and two.split()[0] in LAMPS
        if command == f"use {two}" and lamp and "lit" not in self.marks[two]:
            self.marks[two].add("lit")
            return f"You turn on the {two}."
        if command == f"slice {two} with {self.held}" and self.sees(two):
            soft = two.split()[0] in ("apple", "bread", "lettuce", "potato", "tomato")
            if self.held.split()[0] in KNIVES and soft and "sliced" not in self.marks[two]:
                self.marks[two].add("sliced")
                return f"You sliced the {two} with the {self.held}."
        return None

    def done(self):
        kind, target = self.data["type"], self.data["target"]
        named = [name for name in self.where if name.split()[0] == self.data["object"]]
        if kind == "look_at_obj_in_light":
            lamps = [name for name in self.where if name.split()[0] == target]
            lit = [n for n in lamps if "lit" in self.marks[n] and self.where[n] == self.at]
            return self.held in named and bool(lit)
        mark = {"clean": "clean", "heat": "hot", "cool": "cold"}.get(kind.split("_")[1])
        right = [name for name in named if mark is None or mark in self.marks[name]]
        places = [p for p in self.data["receptacles"] if p.split()[0] == target]
        need = 2 if kind == "pick_two_obj" else 1
        return any(sum(self.where[name] == place for name in right) >= need for place in places)
