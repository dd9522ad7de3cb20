"""Episodes as the conformance checker plays and compares them."""

import hashlib
import json
import pickle
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from trialgym.core import Task, TaskSet, TextEnv, seed_of
from trialgym.errors import BadInput

from .check_hostile import CORPUS

Env = TextEnv[Any]
Factory = Callable[[], Env]
Choose = Callable[[Env, str, random.Random], str]
"""A policy: environment, its last observation, private generator -> action."""


class Broken(Exception):
    """A property does not hold; the message says where it broke."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked, and how much of it."""

    name: str
    factory: Factory
    tasks: int
    """Tasks a split that the expert must solve."""
    hostile: int
    """Hostile actions to send."""
    seed: int

    def make(self) -> Env:
        env = self.factory()
        if not isinstance(env, TextEnv):
            raise BadInput(
                f"`{self.name}` makes a {type(env).__name__}; wanted a trialgym.TextEnv; "
                "wrappers stay outside the factory"
            )
        return env

    def generator(self, *parts: object) -> random.Random:
        return random.Random(seed_of("check", self.seed, *parts))

    def samples(self, count: int) -> list[str]:
        """List `count` task ids in all, dealt over the splits, over again where there are fewer."""
        env = self.make()
        env.close()
        splits = [split for split in env.tasks.splits if env.tasks.size(split) != 0]
        share = -(-count // len(splits))
        found = [spread(env.tasks, split, share) for split in splits]
        return [ids[index % len(ids)] for index in range(share) for ids in found][:count]

    def several(self, least: int) -> list[str]:
        """List task ids for a property that plays whole episodes."""
        return self.samples(max(least, self.tasks // 4))


def spread(tasks: TaskSet, split: str, count: int) -> list[str]:
    """List up to `count` ids of a split, spread evenly over it where it is finite."""
    size = tasks.size(split)
    if size is None or size <= count:
        return tasks.ids(split, count if size is None else size)
    return [tasks.task_id(split, index * size // count) for index in range(count)]


@dataclass(frozen=True, slots=True)
class Moment:
    """What the outside sees of a reset or a step; equal episodes have equal moments."""

    action: str | None
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: str
    """As JSON: values that compare equal but read differently (1 and True) stay apart."""
    state_hash: str


def moment(env: Env, action: str | None, result: Sequence[Any]) -> Moment:
    observation, reward, terminated, truncated, info = result
    text = json.dumps(info, sort_keys=True, default=repr)
    return Moment(action, observation, float(reward), terminated, truncated, text, env.state_hash())


def begin(env: Env, *, seed: int | None = None, task: Task | str | None = None) -> Moment:
    observation, info = env.reset(seed=seed, options=None if task is None else {"task": task})
    return moment(env, None, (observation, 0.0, False, False, info))


def act(env: Env, action: str) -> Moment:
    return moment(env, action, env.step(action))


def play(env: Env, first: Moment, choose: Choose, generator: random.Random) -> list[Moment]:
    """Play on from `first` to the end of the episode."""
    moments = [first]
    while not (moments[-1].terminated or moments[-1].truncated):
        moments.append(act(env, choose(env, moments[-1].observation, generator)))
    return moments


def repeat(env: Env, first: Moment, actions: Iterable[str]) -> list[Moment]:
    return [first, *(act(env, action) for action in actions)]


def actions_of(moments: Iterable[Moment]) -> list[str]:
    return [item.action for item in moments if item.action is not None]


def same(wanted: Sequence[Moment], given: Sequence[Moment], story: str) -> None:
    """Refuse two episodes that differ, naming the first difference."""
    for turn, (one, other) in enumerate(zip(wanted, given, strict=False)):
        for field in fields(Moment):
            left, right = getattr(one, field.name), getattr(other, field.name)
            if left != right:
                raise Broken(
                    f"{story}: turn {turn}, {field.name}: {short(left)} against {short(right)}"
                )
    if len(wanted) != len(given):
        raise Broken(f"{story}: {len(wanted) - 1} turns against {len(given) - 1}")


def short(value: object, limit: int = 80) -> str:
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def has_expert(env: Env) -> bool:
    return type(env).solve is not TextEnv.solve


def follow_expert(env: Env, observation: str, generator: random.Random) -> str:
    return env.expert()


def say_nothing(env: Env, observation: str, generator: random.Random) -> str:
    return ""


def echo(env: Env, observation: str, generator: random.Random) -> str:
    return observation


def say_garbage(env: Env, observation: str, generator: random.Random) -> str:
    return generator.choice(list(CORPUS.values()))


def choose_randomly(env: Env, observation: str, generator: random.Random) -> str:
    """Draw from the admissible actions, or words of the observation where none are listed."""
    valid = env.actions().valid
    if valid:
        return generator.choice(valid)
    words = observation.split() or ["look"]
    return " ".join(generator.choice(words) for _ in range(generator.randint(1, 4)))


def wander(env: Env, observation: str, generator: random.Random) -> str:
    """Mix expert, random and invalid actions, to reach more states than any one of them."""
    draw = generator.random()
    if draw < 0.1:
        return "no such action"
    return (
        env.expert()
        if draw < 0.6 and has_expert(env)
        else choose_randomly(env, observation, generator)
    )


def wandering(subject: Subject, env: Env, task: str) -> list[Moment]:
    return play(env, begin(env, task=task), wander, subject.generator("wander", task))


def fingerprint(factory: Factory, seeds: Sequence[int]) -> list[str]:
    """Hash seeded episodes: what two processes compare."""
    hashes = []
    with factory() as env:
        for seed in seeds:
            choose = wander if seed % 2 or not has_expert(env) else follow_expert
            moments = play(env, begin(env, seed=seed), choose, random.Random(seed))
            text = env.tasks.content(env.task) + repr(moments)
            hashes.append(hashlib.blake2b(text.encode("utf-8", "replace")).hexdigest()[:16])
    return hashes


def answer() -> None:
    """Be the other process: read a pickled factory and seeds, print the hashes."""
    factory, seeds = pickle.load(sys.stdin.buffer)
    print(json.dumps(fingerprint(factory, seeds)))
