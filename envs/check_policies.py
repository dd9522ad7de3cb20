"""Properties of what policies reach: the expert everything, those that know nothing nothing."""

import json
import time
from collections.abc import Callable
from typing import Any

from .check_episodes import (
    Broken,
    Choose,
    Env,
    Moment,
    Subject,
    act,
    begin,
    choose_randomly,
    echo,
    follow_expert,
    has_expert,
    play,
    say_garbage,
    say_nothing,
    short,
    spread,
)
from .check_hostile import hostile_texts, mutate
from .check_rules import bounded

_SLOWEST = 5.0
"""CPU-seconds that one hostile action may take."""
_LUCK = 0.05
"""Success rate that random play may reach."""


def hostile(subject: Subject) -> str:
    """Send texts of every bad kind: no exception, no score, no endless work."""
    generator = subject.generator("hostile")
    names = subject.samples(8)
    with subject.make() as env:
        seen = begin(env, task=names[0])
        for index, (name, text) in enumerate(hostile_texts(subject.hostile // 2, generator)):
            if seen.terminated or seen.truncated:
                seen = begin(env, task=names[index % len(names)])
            seen = _survive(env, seen, name, text, may_score=False)
        for index in range(subject.hostile - subject.hostile // 2):
            if seen.terminated or seen.truncated:
                seen = begin(env, task=names[index % len(names)])
            good = _good_action(env, seen, generator)
            if index % 3 == 0:
                seen = act(env, good)
            else:
                seen = _survive(env, seen, "spoilt action", mutate(good, generator), may_score=True)
    return f"{subject.hostile} hostile actions survived"


def _good_action(env: Env, seen: Moment, generator: Any) -> str:
    play_well = has_expert(env) and generator.random() < 0.5
    return env.expert() if play_well else choose_randomly(env, seen.observation, generator)


def _survive(env: Env, before: Moment, name: str, text: str, *, may_score: bool) -> Moment:
    story = f"{env.task.id}: {name} {short(text)}"
    started = time.process_time()
    try:
        seen = act(env, text)
    except Exception as error:
        raise Broken(f"{story} raises {type(error).__name__}: {short(str(error))}") from error
    spent = time.process_time() - started
    if spent > _SLOWEST:
        raise Broken(f"{story} takes {spent:.1f} CPU-seconds")
    bounded(env, seen, story)
    score, success = _result(seen)
    if not may_score and (success or score > _result(before)[0]):
        raise Broken(f"{story} scores {score}")
    return seen


def _result(seen: Moment) -> tuple[float, bool]:
    info = json.loads(seen.info)
    return info["score"], info["success"]


def expert(subject: Subject) -> str:
    """Solve every task of every split, or the first of them; name those that fail."""
    with subject.make() as env:
        if not has_expert(env):
            return "has no expert"
        names = [
            name for split in env.tasks.splits for name in spread(env.tasks, split, subject.tasks)
        ]
        failing = [name for name in names if not _solves(env, subject, name)]
    if failing:
        raise Broken(f"{len(failing)} of {len(names)} tasks not solved: {', '.join(failing)}")
    return f"all of {len(names)} tasks solved"


def _solves(env: Env, subject: Subject, name: str) -> bool:
    last = play(env, begin(env, task=name), follow_expert, subject.generator(name))[-1]
    return _result(last)[1]


def _knowing_nothing(name: str, choose: Choose) -> Callable[[Subject], str]:
    def scores_nothing(subject: Subject) -> str:
        with subject.make() as env:
            names = subject.samples(max(3, subject.tasks // 5))
            for task in names:
                moments = play(env, begin(env, task=task), choose, subject.generator(name, task))
                score, success = _result(moments[-1])
                if success or score:
                    raise Broken(f"{task}: score {score}, success {success}")
        return f"scores nothing in {len(names)} episodes"

    scores_nothing.__doc__ = f"Score nothing by the policy `{name}`."
    return scores_nothing


null = _knowing_nothing("null", say_nothing)
parrot = _knowing_nothing("echo", echo)
garbage = _knowing_nothing("garbage", say_garbage)


def luck(subject: Subject) -> str:
    """Let random play succeed at most once in twenty episodes."""
    with subject.make() as env:
        names = subject.samples(max(20, subject.tasks))
        wins = 0
        for task in names:
            generator = subject.generator("random", task)
            wins += _result(play(env, begin(env, task=task), choose_randomly, generator)[-1])[1]
    if wins > _LUCK * len(names):
        raise Broken(f"random play succeeds in {wins} of {len(names)} episodes")
    return f"random play succeeds in {wins} of {len(names)} episodes"
