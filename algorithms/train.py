"""The `train` command: one algorithm on stored trajectories, outside the loop.

Command: `trialgym train bc --policy ranker --demonstrations runs/expert --out checkpoints/bc`
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trialgym.cli import show
from trialgym.errors import BadInput
from trialgym.policy import TrainablePolicy
from trialgym.records import Json
from trialgym.registry import make_agent
from trialgym.store import check_config, read_trajectories, run_lock, write_json

from .training import Experience


def train(
    algorithm: Any,
    *,
    policy: str,
    out: Path,
    demonstrations: str | None = None,
    explored: str | None = None,
    experts: str | None = None,
    policy_options: dict[str, Any] | None = None,
    json: bool = False,
) -> int:
    """Train a policy on trajectories with one algorithm.

    `trialgym train ALGORITHM --help` shows the algorithm's own options.

    Args:
        algorithm: id of an algorithm: `bc`, `eto`, `rft`, or one that a package added.
        policy: id of an agent that can be trained, or the directory of a saved one.
        out: where the trained policy is saved.
        demonstrations: the expert's trajectories: a file, or the directory of a rollout.
        explored: the policy's own trajectories, for algorithms that learn from them.
        experts: the expert's trajectories of the explored tasks, for pairs with an expert.
        policy_options: the policy's own options.
        json: print one JSON object instead of a table.
    """
    learner = make_agent(policy, **(policy_options or {}))
    if not isinstance(learner, TrainablePolicy):
        raise BadInput(f"policy `{policy}`; wanted one that can be trained, such as `ranker`")
    sources = {"demonstrations": demonstrations, "explored": explored, "experts": experts}
    _check_sources(algorithm, sources)
    experience = Experience(
        **{name: read_trajectories(source) for name, source in sources.items() if source}
    )
    config: Json = {
        "command": "train", "algorithm": type(algorithm).__name__, "options": asdict(algorithm),
        "policy": policy, "policy_options": policy_options or {}, **sources,
    }  # fmt: skip
    with run_lock(out):
        check_config(out, config)
        with redirect_stdout(sys.stderr):
            report = algorithm.train(learner, experience, out)
            learner.save(out)
        write_json(out / "report.json", report.to_json())
    row = report.to_json()
    last = report.metrics[-1] if report.metrics else {}
    brief = {key: value for key, value in row.items() if not isinstance(value, (Mapping, Sequence))}
    show([row], json=json, one=True, table=[{"algorithm": report.algorithm, **brief, **last}])
    return 0


def _check_sources(algorithm: Any, sources: Mapping[str, str | None]) -> None:
    """Refuse to train without what the algorithm is known to learn from."""
    needed = {"explored": algorithm.needs_exploration, "experts": algorithm.needs_experts}
    wanted = [name for name, need in needed.items() if need] or ["demonstrations"]
    missing = [f"`--{name}`" for name in wanted if not sources[name]]
    if missing:
        raise BadInput(
            f"{type(algorithm).__name__} without {' and '.join(missing)}; wanted trajectories to "
            "learn from; collect some with `trialgym rollout`"
        )
