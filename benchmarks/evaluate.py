"""How good agents are: success on held-out tasks, with intervals, paired against the first agent.

Command: `trialgym evaluate trialgym/Household-v0 --agent random expert --split test --count 500`
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from trialgym.cli import show
from trialgym.errors import BadInput
from trialgym.records import Json, Trajectory, summarise
from trialgym.rollout import Limits, check_limits
from trialgym.store import Store, check_config, run_lock, write_json

from .rollout import agent_of, brief, collect, select

DRAWS_AT_ONCE = 500
"""Bootstrap draws held in memory together."""


def paired_interval(
    a: Sequence[float], b: Sequence[float], seed: int = 0, draws: int = 10_000
) -> tuple[float, float, float]:
    """Give the mean of `b - a` over the same tasks, and its 95 % bootstrap interval.

    Tasks are drawn anew, not episodes: what makes a task easy for both agents cancels out.

    Args:
        a: a value a task, such as the baseline's success.
        b: the other agent's values of the same tasks.
        seed: of the draws.
        draws: how many times the tasks are drawn anew.

    Raises:
        BadInput: no tasks, or unequal numbers of them.
    """
    if not a or len(a) != len(b):
        raise BadInput(f"{len(a)} and {len(b)} values; wanted as many of both, at least one")
    differences = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    for at in range(0, draws, DRAWS_AT_ONCE):
        size = min(DRAWS_AT_ONCE, draws - at)
        drawn = generator.integers(0, len(differences), (size, len(differences)))
        means[at : at + size] = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)


def evaluate(
    env: str,
    *,
    agent: list[str],
    split: str = "test",
    count: int | None = None,
    samples: int = 1,
    seed: int = 0,
    temperature: float = 0.0,
    concurrency: int = 64,
    env_options: dict[str, Any] | None = None,
    agent_options: dict[str, Any] | None = None,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Measure agents on held-out tasks, with intervals.

    Several agents play the same tasks; each is then compared with the first by a paired bootstrap.

    Args:
        env: id of the environment; see `trialgym envs`.
        agent: ids of agents or directories of saved policies; the first is the baseline.
        split: a split of the environment, a part of one (`test:0:100`), or a benchmark's own file.
        count: only the first so many tasks.
        samples: episodes of each task.
        seed: seed of the agents' choices and of the bootstrap.
        temperature: of the agents' choices; 0 takes the most likely action.
        concurrency: episodes under way at once.
        env_options: the environment's own options, such as `--env_options.max_turns 20`.
        agent_options: options that every one of the agents takes.
        out: run directory to keep the episodes in, and to go on from; nothing is kept without it.
        json: print one JSON object (an array where several agents are given) instead of a table.
    """
    limits = Limits(concurrency=concurrency)
    check_limits(samples, limits)
    chosen = select(env, split, count, env_options or {})
    policies = [agent_of(name, agent_options, seed, temperature) for name in agent]
    config: Json = {
        "command": "evaluate", "env": env, "env_version": chosen.version,
        "env_options": env_options or {}, "tasks": split, "tasks_digest": chosen.digest,
        "count": count, "samples": samples, "agent": agent, "agent_options": agent_options or {},
        "seed": seed, "temperature": temperature,
    }  # fmt: skip
    with ExitStack() as stack:
        store = None
        if out is not None:
            stack.enter_context(run_lock(out))
            check_config(out, config)
            store = stack.enter_context(Store(out / "trajectories.sqlite"))
        results = [
            collect(
                policy,
                chosen,
                samples=samples,
                limits=limits,
                # Two checkpoints may bear one name: the place in the list tells them apart.
                group=f"evaluate/{number}-{Path(name).name[:100]}",
                store=store,
            )
            for number, (name, policy) in enumerate(zip(agent, policies, strict=True))
        ]
        rows = [
            {"env": env, "agent": name, "tasks": split, **summarise(episodes).to_json()}
            for name, episodes in zip(agent, results, strict=True)
        ]
        for row, episodes in zip(rows[1:], results[1:], strict=True):
            row |= _compared(results[0], episodes, seed)
        if len(rows) > 1:
            rows[0] |= dict.fromkeys(("difference", "difference_low", "difference_high"))
        if out is not None:
            write_json(out / "summary.json", rows)
    show(rows, json=json, one=len(rows) == 1, table=[brief(row) for row in rows])
    return 0


def _compared(first: Sequence[Trajectory], other: Sequence[Trajectory], seed: int) -> Json:
    pairs = [(a, b) for a, b in zip(first, other, strict=True) if not a.faulty and not b.faulty]
    tasks = list(dict.fromkeys(a.task_id for a, _ in pairs))
    ours, theirs = (_by_task([pair[side] for pair in pairs], tasks) for side in (0, 1))
    difference, low, high = paired_interval(ours, theirs, seed)
    return {"difference": difference, "difference_low": low, "difference_high": high}


def _by_task(episodes: Sequence[Trajectory], tasks: Sequence[str]) -> list[float]:
    """Average the samples of a task: they are no independent tasks."""
    wins: dict[str, list[float]] = {task: [] for task in tasks}
    for episode in episodes:
        wins[episode.task_id].append(float(episode.success))
    return [sum(values) / len(values) for values in wins.values()]
