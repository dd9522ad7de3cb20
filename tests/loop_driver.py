"""Runs a small loop in forked children that kill themselves at a durable action; prints a digest.

Usage: python loop_driver.py DIRECTORY after|before|whole

`after` kills the children in turn right after their first, second, ... twelfth durable action and
begins anew with the first; `before` right before it. The next child resumes, until one ends the
run. `whole` lets the first child end it.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trialgym.agents.ranker import Ranker
from trialgym.algorithms import loop
from trialgym.algorithms.loop_config import LoopConfig
from trialgym.store import Store

CONFIG = LoopConfig(
    environment_options={"max_turns": 12},
    demonstrations=6,
    clone_options={"schedule": {"epochs": 3, "batch": 4, "learning_rate": 0.003}},
    algorithm_options={"pairs": {"source": "both"}, "schedule": {"updates": 4, "batch": 8}},
    rounds=2,
    tasks=8,
    samples=3,
    rounds_kept=2,
    panels={"test": 5, "test_unseen": 4},
    concurrency=4,
)
DURABLE = (
    (Store, "add"),
    (loop, "write_json"),
    (loop, "check_config"),
    (loop, "write_report"),
    (Ranker, "save"),
    (Path, "rename"),
    (Path, "replace"),
    (shutil, "rmtree"),
)


def main() -> None:
    directory, manner = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            if manner != "whole":
                # One action at a time would never end: a training phase needs several.
                deadly = Deadly(after=kills % 12 + 1, first=manner == "before")
                for owner, name in DURABLE:
                    setattr(owner, name, deadly(getattr(owner, name)))
            loop.Loop(CONFIG, directory).run()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                sys.exit("a child failed")
            break
        kills += 1
    print(json.dumps({"kills": kills, **digest(directory)}))


class Deadly:
    """Kills the process at its `after`-th durable action: right before it, or right after."""

    def __init__(self, after: int, first: bool) -> None:
        self.left, self.first = after, first

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0 and self.first:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def digest(directory: Path) -> dict[str, Any]:
    """Tell all that a run ends with, costs in seconds left out."""
    rows = json.loads((directory / "results.json").read_text())
    for row in rows:
        del row["cpu_seconds"]
    with Store(directory / "trajectories.sqlite", run=CONFIG.name) as store:
        episodes = [one.to_json() for one in store.trajectories()]
    weights = {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.glob("checkpoints/*/model.safetensors"))
    }
    return {
        "results": rows,
        "episodes": len(episodes),
        "distinct": len({one["id"] for one in episodes}),
        "content": hashlib.sha256(json.dumps(episodes).encode()).hexdigest(),
        "weights": weights,
        "left": sorted(path.name for path in directory.rglob("*.partial")),
    }


if __name__ == "__main__":
    main()
