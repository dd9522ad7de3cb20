"""Properties of the contract: what an environment returns, refuses, counts and lists."""

import json
import math
import warnings
from itertools import combinations
from typing import Any, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from trialgym.errors import BadInput, NotReady, UnknownId

from .check_episodes import (
    Broken,
    Env,
    Moment,
    Subject,
    act,
    begin,
    choose_randomly,
    follow_expert,
    has_expert,
    play,
    short,
    spread,
    wander,
)
from .check_hostile import CORPUS

_INFO = {"task_id": str, "score": float, "success": bool, "invalid": bool}
_CLOSE = 1e-9


def gymnasium_check(subject: Subject) -> str:
    """Run Gymnasium's own checker; any warning fails."""
    with warnings.catch_warnings(), subject.make() as env:
        warnings.simplefilter("error")
        if env.spec is None and isinstance(subject.factory, type):
            env.spec = EnvSpec("trialgym/Checked-v0", entry_point=cast("Any", subject.factory))
        elif env.spec is None:
            env.spec = gymnasium.registry.get(subject.name)
        check_env(env, skip_render_check=env.spec is None)
    return "check_env without a warning"


def tasks(subject: Subject) -> str:
    """Address tasks by id: the same task each time, clear errors for ids that are none."""
    with subject.make() as env:
        found = env.tasks
        for task_id in subject.several(12):
            task, again = found[task_id], found[task_id]
            if (task.id, task.split) != (task_id, task_id.split("/", 1)[1].rsplit("/", 1)[0]):
                raise Broken(f"`{task_id}` builds a task of id `{task.id}`, split `{task.split}`")
            if found.content(task) != found.content(again) or task.instruction == "":
                raise Broken(f"`{task_id}` builds another task the second time, or an empty one")
            json.dumps(dict(task.data), allow_nan=False)
            if begin(env, task=task_id) != begin(env, task=task):
                raise Broken(f"`{task_id}` begins otherwise when given as a Task")
        for wrong in ("", "nonsense", f"{found.name}/no such split/000000", f"{found.name}/x/-1"):
            try:
                env.reset(options={"task": wrong})
            except (BadInput, UnknownId):
                continue
            raise Broken(f"the task id `{wrong}` is accepted")
    return "ids give the same tasks; wrong ids are refused"


def splits(subject: Subject) -> str:
    """Keep the splits apart by what their tasks are, whatever the ids say."""
    with subject.make() as env:
        found = env.tasks
        contents = {
            split: {found.content(found[name]): name for name in spread(found, split, count)}
            for split in found.splits
            for count in (4 * subject.tasks,)
        }
    for (one, left), (other, right) in combinations(contents.items(), 2):
        shared = [left[content] for content in left if content in right]
        if shared:
            raise Broken(f"splits {one} and {other} share {len(shared)} tasks: {_some(shared)}")
    sizes = ", ".join(f"{split} {len(content)}" for split, content in contents.items())
    return f"no task in two splits ({sizes} different tasks seen)"


def instruction(subject: Subject) -> str:
    """Say the task in the first observation."""
    with subject.make() as env:
        for task_id in subject.several(6):
            first = " ".join(begin(env, task=task_id).observation.split())
            wanted = " ".join(env.task.instruction.split())
            if wanted not in first:
                raise Broken(f"{task_id}: the first observation lacks {short(wanted)}")
    return "the first observation holds the instruction"


def actions(subject: Subject) -> str:
    """Tell an agent what it may do, before the end and after it."""
    with subject.make() as env:
        moments = [begin(env, task=subject.samples(1)[0])]
        spec = env.actions()
        if not spec.grammar.strip():
            raise Broken("the grammar is empty")
        json.dumps([dict(tool) for tool in spec.tools], allow_nan=False)
        play(env, moments[0], wander, subject.generator("actions"))
        if env.actions().valid is not None:
            raise Broken("an ended episode still lists admissible actions")
    return f"grammar of {len(spec.grammar)} characters, {len(spec.tools)} tools"


def rewards(subject: Subject) -> str:
    """Sum the rewards to the score in [0, 1]; give every key of `info`."""
    with subject.make() as env:
        for task_id in subject.several(8):
            for choose in (wander, follow_expert) if has_expert(env) else (wander,):
                _rewards_of(env, task_id, subject, choose)
    return "rewards sum to the score"


def _rewards_of(env: Env, task_id: str, subject: Subject, choose: Any) -> None:
    total = 0.0
    moments = play(env, begin(env, task=task_id), choose, subject.generator(task_id))
    for turn, seen in enumerate(moments):
        total += seen.reward
        story, info = f"{task_id}, turn {turn}", json.loads(seen.info)
        for key, kind in _INFO.items():
            if not isinstance(info.get(key), kind):
                raise Broken(
                    f"{story}: info[{key!r}] is {short(info.get(key))}; wanted {kind.__name__}"
                )
        if info["task_id"] != task_id:
            raise Broken(f"{story}: info names task {short(info['task_id'])}")
        if not math.isfinite(total) or abs(total - info["score"]) > _CLOSE:
            raise Broken(f"{story}: rewards sum to {total}, the score is {info['score']}")
        if not -_CLOSE <= info["score"] <= 1 + _CLOSE:
            raise Broken(f"{story}: the score {info['score']} is outside [0, 1]")
        if not all(isinstance(flag, bool) for flag in (seen.terminated, seen.truncated)):
            raise Broken(f"{story}: terminated and truncated are no bools")
    if info["success"] and info["score"] <= 0:
        raise Broken(f"{task_id}: a success of score {info['score']}")


def bounds(subject: Subject) -> str:
    """Keep observations text that the space contains and UTF-8 can write."""
    longest = 0
    with subject.make() as env:
        for task_id in subject.several(8):
            moments = play(env, begin(env, task=task_id), wander, subject.generator(task_id))
            for turn, seen in enumerate(moments):
                bounded(env, seen, f"{task_id}, turn {turn}")
                longest = max(longest, len(seen.observation))
    return f"longest observation {longest} characters"


def bounded(env: Env, seen: Moment, story: str) -> None:
    if not env.observation_space.contains(seen.observation):
        raise Broken(f"{story}: the observation {short(seen.observation)} is outside the space")
    try:
        seen.observation.encode()
    except UnicodeEncodeError as error:
        raise Broken(f"{story}: the observation holds a lone surrogate") from error


def as_json(subject: Subject) -> str:
    """Give only what JSON carries unchanged, admissible actions listed too."""
    with subject.make() as env:
        env.list_admissible = True
        for task_id in subject.several(3):
            result: tuple[Any, ...] = env.reset(options={"task": task_id})
            generator = subject.generator("json", task_id)
            for turn in range(env.max_turns):
                _carried([result[0], result[-1]], f"{task_id}, turn {turn}")
                if len(result) == 5 and (result[2] or result[3]):
                    break
                result = env.step(wander(env, result[0], generator))
    return "observations and infos survive JSON"


def _carried(value: Any, story: str) -> None:
    try:
        back = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise Broken(f"{story}: {error}") from error
    if back != value:
        raise Broken(f"{story}: JSON changes {short(value)} to {short(back)}")


def ready(subject: Subject) -> str:
    """Refuse to step where there is no episode."""
    with subject.make() as env:
        _refused(env, "before the first reset")
        play(env, begin(env, task=subject.samples(1)[0]), wander, subject.generator("ready"))
        _refused(env, "after the end")
        begin(env)
        act(env, "no such action")
    return "NotReady before the first reset and after the end"


def _refused(env: Env, when: str) -> None:
    for name, call in (("step", lambda: env.step("look")), ("expert", env.expert)):
        try:
            call()
        except NotReady:
            continue
        raise Broken(f"`{name}` {when} raises no NotReady")


def cap(subject: Subject) -> str:
    """Truncate at the turn cap, and neither before nor by termination."""
    with subject.make() as env:
        env.max_turns = min(env.max_turns, 7)
        moments = [begin(env, task=subject.samples(1)[0])]
        while not (moments[-1].terminated or moments[-1].truncated):
            if len(moments) > env.max_turns:
                raise Broken(f"turn {env.max_turns} of {env.max_turns} does not truncate")
            moments.append(act(env, CORPUS["unknown verb"]))
        if moments[-1].terminated:
            raise Broken(f"an unknown action ends the episode at turn {len(moments) - 1}")
        if len(moments) - 1 != env.max_turns:
            raise Broken(f"truncated at turn {len(moments) - 1} of {env.max_turns}")
    return "the turn cap truncates"


def state_hash(subject: Subject) -> str:
    """Hash equal states equally; leave the hash alone at an invalid action."""
    changes = invalid = 0
    with subject.make() as env, subject.make() as other:
        for task_id in subject.several(6):
            before = begin(env, task=task_id)
            if begin(other, task=task_id).state_hash != before.state_hash:
                raise Broken(f"{task_id}: two environments hash the first state differently")
            generator = subject.generator("hash", task_id)
            while not (before.terminated or before.truncated):
                first = before.action is None
                text = wander(env, before.observation, generator)
                seen = act(env, CORPUS["unknown verb"] if first else text)
                if json.loads(seen.info)["invalid"]:
                    invalid += 1
                    if seen.state_hash != before.state_hash:
                        raise Broken(f"{task_id}: {short(seen.action)}, invalid, changes the hash")
                changes += seen.state_hash != before.state_hash
                before = seen
    if not changes:
        raise Broken("the hash never changes, whatever is done")
    return f"{changes} changes by valid actions, none by {invalid} invalid ones"


def admissible(subject: Subject) -> str:
    """List only actions that are understood, each once, the expert's among them."""
    tried = 0
    with subject.make() as env:
        if begin(env) and env.actions().valid is None:
            return "lists no admissible actions"
        for task_id in subject.several(4):
            seen = begin(env, task=task_id)
            generator = subject.generator("admissible", task_id)
            for _ in range(4):
                if seen.terminated or seen.truncated:
                    break
                tried += _try_all(env, task_id)
                seen = act(env, choose_randomly(env, seen.observation, generator))
    return f"{tried} admissible actions tried"


def _try_all(env: Env, task_id: str) -> int:
    valid = env.actions().valid or ()
    if len(set(valid)) != len(valid):
        raise Broken(f"{task_id}: an admissible action is listed twice")
    if has_expert(env) and env.expert() not in valid:
        raise Broken(f"{task_id}: the expert's {short(env.expert())} is not listed")
    kept = env.snapshot()
    for action in valid[:60]:
        if json.loads(act(env, action).info)["invalid"]:
            raise Broken(f"{task_id}: the listed {short(action)} is invalid")
        env.restore(kept)
    return len(valid[:60])


def _some(names: list[str], limit: int = 12) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
