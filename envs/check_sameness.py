"""Properties by which the same thing happens again: seeds, replay, fork, reset, pickling."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from .check_episodes import (
    Broken,
    Env,
    Moment,
    Subject,
    act,
    actions_of,
    begin,
    choose_randomly,
    fingerprint,
    play,
    repeat,
    same,
    wander,
    wandering,
)

_SEEDS = tuple(range(11, 19))


def twin(subject: Subject) -> str:
    """Compare seeded episodes with those of a process that hashes strings differently."""
    try:
        parcel = pickle.dumps((subject.factory, _SEEDS))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Broken(
            f"the factory cannot be sent to another process ({error}); "
            "give a `module:Name` string or a function of a module"
        ) from error
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    paths = os.pathsep.join(path for path in sys.path if path)
    child = subprocess.run(
        [sys.executable, "-c", f"from {__package__}.check_episodes import answer; answer()"],
        input=parcel,
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
        timeout=300,
    )
    if child.returncode:
        words = child.stderr.decode("utf-8", "replace").strip().splitlines() or ["no words"]
        raise Broken(f"the other process failed: {words[-1]}")
    theirs = json.loads(child.stdout.splitlines()[-1])
    ours = fingerprint(subject.factory, _SEEDS)
    differing = [
        seed for seed, one, other in zip(_SEEDS, ours, theirs, strict=True) if one != other
    ]
    if differing:
        raise Broken(f"seeds {differing} give other episodes in another process")
    return f"{len(ours)} seeded episodes equal in two processes"


def private_random(subject: Subject) -> str:
    """Neither draw from nor seed the generators that the whole process shares."""
    with subject.make() as env:
        before = random.getstate()
        shared = repr(np.random.get_state())
        play(env, begin(env, seed=5), wander, subject.generator("private"))
        if random.getstate() != before:
            raise Broken("an episode moved the global generator of `random`")
        if repr(np.random.get_state()) != shared:
            raise Broken("an episode moved the global generator of `numpy.random`")
    return "the process's shared generators are left alone"


def replay(subject: Subject) -> str:
    """Give a second environment the same actions; also restore by replaying them."""
    turns = 0
    with subject.make() as env, subject.make() as other:
        for task in subject.several(6):
            moments = wandering(subject, env, task)
            actions = actions_of(moments)
            again = repeat(other, begin(other, task=task), actions)
            same(moments, again, f"{task} replayed")
            other.restore(replace(env.snapshot(), state=None))
            if other.state_hash() != moments[-1].state_hash:
                raise Broken(f"{task}: a restore that replays the actions ends in another state")
            turns += len(actions)
    return f"{turns} turns replayed"


def fork(subject: Subject) -> str:
    """Leave and come back at several turns, here and in another environment."""
    forks = 0
    with subject.make() as env, subject.make() as other:
        for task in subject.several(4):
            moments = wandering(subject, env, task)
            for turn in _turns(len(moments) - 1):
                _fork_at(subject, env, other, moments, task, turn)
                forks += 1
    return f"{forks} forks continue as the unforked episode"


def _turns(length: int) -> Iterable[int]:
    return sorted({0, 1, length // 2, length - 1} & set(range(length)))


def _fork_at(
    subject: Subject, env: Env, other: Env, moments: Sequence[Moment], task: str, turn: int
) -> None:
    story = f"{task} forked at turn {turn}"
    past, future = actions_of(moments[: turn + 1]), actions_of(moments[turn + 1 :])
    reached = repeat(env, begin(env, task=task), past)[-1]
    kept = env.snapshot()
    for place, where in ((other, "another environment"), (env, "the same environment")):
        observation = place.restore(kept)
        if observation != reached.observation:
            raise Broken(f"{story}: {where} restores another observation")
        play(place, reached, choose_randomly, subject.generator(task, turn))
        place.restore(kept)
        if place.state_hash() != reached.state_hash:
            raise Broken(f"{story}: {where} restores another state")
        same(moments[turn:], repeat(place, moments[turn], future), f"{story}, {where}")
    env.restore(kept)
    other.restore(kept)
    play(other, reached, choose_randomly, subject.generator(task, turn, "beside"))
    same(
        moments[turn:],
        repeat(env, moments[turn], future),
        f"{story}, while the fork went elsewhere",
    )


def reset(subject: Subject) -> str:
    """Play an episode after others, finished or not, as in a fresh environment."""
    first, second = subject.samples(2)
    with subject.make() as env, subject.make() as used:
        fresh = wandering(subject, env, first)
        wandering(subject, used, second)
        same(fresh, wandering(subject, used, first), f"{first} after {second}")
        act_some(subject, used, second)
        same(fresh, wandering(subject, used, first), f"{first} after a part of {second}")
        seeded = begin(env, seed=3)
        used.reset(options={"split": list(used.tasks.splits)[-1]})
        same([seeded], [begin(used, seed=3)], "seed 3 after an episode of another split")
        same([begin(env)], [begin(used)], "the reset after seed 3")
    return "an episode after others equals a fresh one"


def act_some(subject: Subject, env: Env, task: str) -> None:
    generator, seen = subject.generator("part", task), begin(env, task=task)
    for _ in range(3):
        if not (seen.terminated or seen.truncated):
            seen = act(env, wander(env, seen.observation, generator))


def isolation(subject: Subject) -> str:
    """Step two environments in turn; neither may feel the other."""
    first, second = subject.samples(2)
    with subject.make() as env, subject.make() as other:
        alone = [wandering(subject, env, task) for task in (first, second)]
        pair = (env, other)
        beside = [
            [begin(place, task=task)] for place, task in zip(pair, (first, second), strict=True)
        ]
        for turn in range(1, max(map(len, alone))):
            for place, wanted, given in zip(pair, alone, beside, strict=True):
                if turn < len(wanted):
                    given.append(act(place, wanted[turn].action or ""))
        for task, wanted, given in zip((first, second), alone, beside, strict=True):
            same(wanted, given, f"{task} beside another episode")
    return "two environments stepped in turn do not feel each other"


def threads(subject: Subject) -> str:
    """Play four episodes in four threads at once, in environments made by this one."""
    tasks = subject.samples(4)
    with subject.make() as env:
        alone = [wandering(subject, env, task) for task in tasks]
    places = [subject.make() for _ in tasks]
    try:
        with ThreadPoolExecutor(len(tasks)) as pool:
            found = list(pool.map(wandering, [subject] * len(tasks), places, tasks))
    finally:
        for place in places:
            place.close()
    for task, wanted, given in zip(tasks, alone, found, strict=True):
        same(wanted, given, f"{task} in another thread")
    return f"{len(tasks)} episodes in threads equal those of one thread"


def pickling(subject: Subject) -> str:
    """Pickle the environment in mid-episode, and a snapshot; both continue equally."""
    with subject.make() as env:
        for task in subject.several(3):
            moments = wandering(subject, env, task)
            turn = (len(moments) - 1) // 2
            repeat(env, begin(env, task=task), actions_of(moments[: turn + 1]))
            future = actions_of(moments[turn + 1 :])
            snapshot = pickle.loads(pickle.dumps(env.snapshot()))
            with pickle.loads(pickle.dumps(env)) as twin_env:
                same(moments[turn:], repeat(twin_env, moments[turn], future), f"{task} unpickled")
            same(moments[turn:], repeat(env, moments[turn], future), f"{task} after pickling")
            env.restore(snapshot)
            same(moments[turn:], repeat(env, moments[turn], future), f"{task}, snapshot unpickled")
    return "environment and snapshot continue after pickling"
