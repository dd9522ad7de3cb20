"""Collects trajectories of an agent: which tasks, which agent, where they are kept.

Command: `trialgym rollout trialgym/Household-v0 --tasks test --agent random --out runs/random`
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

from trialgym.cli import show
from trialgym.core import TextEnv
from trialgym.errors import BadFile, BadInput
from trialgym.policy import Policy, TrainablePolicy
from trialgym.records import Json, Trajectory, summarise
from trialgym.registry import find, make, make_agent, table
from trialgym.rollout import Limits, check_limits
from trialgym.rollout import rollout as run
from trialgym.store import Store, check_config, run_lock, without_password, write_json


@dataclass(frozen=True, slots=True)
class Selection:
    """Tasks that a command line names, and how to make the environment that has them."""

    env: str
    factory: Callable[[], TextEnv[Any]]
    ids: tuple[str, ...]
    version: str
    digest: str | None
    """Hash of the benchmark file, where the tasks come from one."""


def select(env: str, tasks: str, count: int | None, options: Mapping[str, Any]) -> Selection:
    """Find the tasks that `SPLIT`, `SPLIT:START:END` or a benchmark's file name.

    Raises:
        BadInput: a slice that is no slice, or more tasks than the split has.
        BadFile: the file is not there, or the environment cannot read it.
    """
    if count is not None and count < 1:
        raise BadInput(f"count {count}; wanted at least 1")
    path = Path(tasks)
    from_file = path.suffix != "" or "/" in tasks
    if from_file and not path.is_file():
        raise BadFile(path, "no such file; wanted a benchmark's file, or a split's name")
    if from_file:
        options = {**options, "tasks": path}
    factory = partial(make, env, **options)
    probe = factory()
    try:
        found = _every_id(probe) if from_file else _slice(probe, tasks, count)
        if count is not None and count > len(found):
            raise BadInput(f"{count} tasks; `{tasks}` has {len(found)}; ask for fewer")
        digest = sha256(path.read_bytes()).hexdigest()[:16] if from_file else None
        return Selection(env, factory, tuple(found[:count]), probe.version, digest)
    finally:
        probe.close()


def _every_id(env: TextEnv[Any]) -> list[str]:
    return [task_id for split in env.tasks.splits for task_id in env.tasks.ids(split)]


def _slice(env: TextEnv[Any], tasks: str, count: int | None) -> list[str]:
    split, *bounds = tasks.split(":")
    if len(bounds) not in (0, 2) or not all(not part or part.isdecimal() for part in bounds):
        raise BadInput(f"tasks `{tasks}`; wanted SPLIT, SPLIT:START:END or a file")
    start, end = (int(part) if part else None for part in bounds or ("", ""))
    start = start or 0
    if end is not None and end <= start:
        raise BadInput(f"tasks `{tasks}`; wanted START below END")
    return env.tasks.ids(split, count if end is None else end - start, start)


def agent_of(
    name: str, options: Mapping[str, Any] | None, seed: int | None, temperature: float | None
) -> Policy:
    """Make an agent; seed and temperature reach those that have a use for them."""
    asked = {"seed": seed, "temperature": temperature}
    given: Json = {key: value for key, value in asked.items() if value is not None}
    options = dict(options or {})
    if name in table("agent"):
        takes = inspect.signature(find("agent", name)).parameters
        options |= {key: value for key, value in given.items() if key in takes}
    policy = make_agent(name, **options)
    if isinstance(policy, TrainablePolicy):
        return policy.with_info(replace(policy.info, **given))
    return policy


def collect(
    policy: Policy,
    chosen: Selection,
    *,
    samples: int,
    limits: Limits,
    group: str,
    store: Store | None,
    keep_candidates: bool | None = None,
) -> list[Trajectory]:
    """Roll out with a progress bar on a terminal; nothing but the result reaches stdout."""
    with redirect_stdout(sys.stderr):
        return run(
            policy,
            chosen.factory,
            chosen.ids,
            env=chosen.env,
            samples=samples,
            group=group,
            store=store,
            limits=limits,
            keep_candidates=keep_candidates,
            show_progress=sys.stderr.isatty(),
        )


def rollout(
    env: str,
    *,
    tasks: str,
    agent: str,
    out: Path,
    count: int | None = None,
    samples: int = 1,
    seed: int | None = None,
    temperature: float | None = None,
    candidates: bool = False,
    concurrency: int = 64,
    env_options: dict[str, Any] | None = None,
    agent_options: dict[str, Any] | None = None,
    store: str | None = None,
    json: bool = False,
) -> int:
    """Collect trajectories of an agent into a directory.

    The same command again goes on where an earlier one stopped, with nothing lost or doubled.

    Args:
        env: id of the environment; see `trialgym envs`.
        tasks: a split of the environment (`test`), a part of one (`train:0:100`), or a benchmark's
            own file.
        agent: id of an agent, or the directory of a saved policy.
        out: run directory; its `trajectories.sqlite` holds the episodes.
        count: only the first so many tasks.
        samples: episodes of each task.
        seed: seed of the agent's choices; without effect on agents that leave nothing to chance.
        temperature: of the agent's choices; without effect on scripted agents.
        candidates: record the admissible actions of each turn: what a `ranker` learns from.
        concurrency: episodes under way at once.
        env_options: the environment's own options, such as `--env_options.max_turns 20`.
        agent_options: the agent's own options, such as `--agent_options.recorded FILE`.
        store: database URL to keep the episodes in, instead of the directory's SQLite file.
        json: print one JSON object instead of a table.
    """
    limits = Limits(concurrency=concurrency)
    check_limits(samples, limits)  # before a wrong number is written into a run's configuration
    chosen = select(env, tasks, count, env_options or {})
    policy = agent_of(agent, agent_options, seed, temperature)
    config: Json = {
        "command": "rollout", "env": env, "env_version": chosen.version,
        "env_options": env_options or {}, "tasks": tasks, "tasks_digest": chosen.digest,
        "count": count, "samples": samples, "agent": agent, "agent_options": agent_options or {},
        "seed": seed, "temperature": temperature, "candidates": candidates,
        "store": store and without_password(store),
    }  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(run_lock(out))
        kept = stack.enter_context(_open_store(out, store, config))
        check_config(out, config)
        episodes = collect(
            policy,
            chosen,
            samples=samples,
            limits=limits,
            group="rollout",
            store=kept,
            keep_candidates=candidates or None,
        )
        row = {"env": env, "agent": agent, "tasks": tasks, **summarise(episodes).to_json()}
        write_json(out / "summary.json", row)
    show([row], json=json, one=True, table=[brief(row)])
    return 0


def brief(row: Mapping[str, Any]) -> Json:
    """Shorten a summary to what fits a terminal's width."""
    short: Json = {
        "agent": row["agent"],
        "episodes": row["episodes"],
        "success": f"{row['success_rate']:.1%} ({row['low']:.1%} to {row['high']:.1%})",
        "score": row["score_mean"],
        "invalid": f"{row['invalid_rate']:.1%}",
        "turns": f"{row['turns_mean']:.1f}",
        "faults": row["faults"],
    }
    if row.get("difference") is not None:
        bounds = f"{row['difference_low']:+.1%} to {row['difference_high']:+.1%}"
        short["against the first"] = f"{row['difference']:+.1%} ({bounds})"
    elif "difference" in row:
        short["against the first"] = None
    return short


def _open_store(directory: Path, url: str | None, config: Json) -> Store:
    if url is None:
        return Store(directory / "trajectories.sqlite")
    # Directories of one name on many machines share the database, but only those of one
    # configuration may share episodes.
    digest = sha256(dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return Store(url, run=f"{directory.resolve().name[-100:]}-{digest}")
