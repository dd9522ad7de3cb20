"""The explore-train loop: a state machine over a run directory.

Phases follow one another: `demonstrate`, `clone`, `evaluate-0`, then for each round `explore-k`,
`train-k`, `evaluate-k`, and `report`. A phase that has ended leaves `phases/<name>.json`; one that
a kill cut short runs again and picks up the episodes that the store already has, so the same
command after a kill at any point ends with the same results. All randomness is derived from the
run's seed, the phase, the task and the sample.

Run directory::

    config.json         what was asked for; another configuration is refused
    manifest.json       versions of everything that the numbers depend on
    trajectories.sqlite every episode, by group: demonstrate, explore/1, evaluate/0/test, ...
    phases/             one file a finished phase
    checkpoints/        one saved policy a training phase
    metrics.jsonl       one line a training epoch
    results.json        one row an evaluated policy and panel
    report.html         learning curve, and episodes before and after
"""

import json
import logging
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from trialgym.core import TextEnv
from trialgym.errors import BadInput, Fault, NothingToLearn
from trialgym.policy import Policy, TrainablePolicy
from trialgym.records import Json, PolicyInfo, Summary, Trajectory, summarise
from trialgym.registry import find, make, make_agent
from trialgym.rollout import Limits, rollout
from trialgym.store import Store, check_config, run_lock, write_json

from .loop_config import LoopConfig, configure, load
from .report import write_report
from .training import Experience, Report

PACKAGES = ("trialgym", "gymnasium", "numpy", "torch", "transformers", "trl", "peft", "sqlalchemy")
logger = logging.getLogger(__name__)
TASKS_PER_SEED = 1_000_000
"""Runs of different seeds learn from different stretches of the endless train split."""


class Loop:
    """One run.

    Args:
        config: what to do.
        directory: where everything about the run is kept.
        show_progress: draw progress bars on standard error.
    """

    def __init__(self, config: LoopConfig, directory: Path, show_progress: bool = False) -> None:
        self.config, self.directory, self.show_progress = config, directory, show_progress
        self.algorithm = configure(
            find("algorithm", config.algorithm), config.algorithm_options, "algorithm_options"
        )
        self.cloning = configure(find("algorithm", "bc"), config.clone_options, "clone_options")
        env = self._make()
        self.tasks = env.tasks
        env.close()
        self.limits = Limits(concurrency=config.concurrency, repeats=config.repeats)
        self._check()

    def run(self) -> list[Json]:
        """Do what is left to do; gives the rows of `results.json`.

        Raises:
            RunConflict: another process works on the directory, or it is of another configuration.
            StorageFull: the disk is full; free some and run the same command again.
        """
        with run_lock(self.directory):
            check_config(self.directory, asdict(self.config))
            write_json(self.directory / "manifest.json", _manifest())
            with Store(self.directory / "trajectories.sqlite", run=self.config.name) as self.store:
                for name, phase in self._phases():
                    self._once(name, phase)
            rows = self.rows()
            write_json(self.directory / "results.json", rows)
            write_report(self.directory)
        return rows

    def rows(self) -> list[Json]:
        """Give a row for each evaluated policy and panel, costs summed up to it."""
        steps = tokens = 0
        seconds = 0.0
        rows = []
        for name in self._names():
            done = self._done(name)
            if done is None:
                break
            tokens += done.get("tokens", 0)
            seconds += done["cpu_seconds"]
            if not name.startswith("evaluate"):
                steps += done.get("env_steps", 0)
            for panel, summary in done.get("panels", {}).items():
                rows.append(
                    {
                        "policy": self._label(int(name.split("-")[1])),
                        "panel": panel,
                        "episodes": summary["episodes"],
                        "success": summary["success_rate"],
                        "low": summary["low"],
                        "high": summary["high"],
                        "seed": self.config.seed,
                        "env_steps": steps,
                        "train_tokens": tokens,
                        "cpu_seconds": round(seconds, 2),
                    }
                )
        return rows

    # Phases.

    def _phases(self) -> Iterator[tuple[str, Callable[[], Json]]]:
        yield "demonstrate", self._demonstrate
        yield "clone", self._clone
        yield "evaluate-0", lambda: self._evaluate(0)
        for round_ in range(1, self.config.rounds + 1):
            yield f"explore-{round_}", lambda k=round_: self._explore(k)  # type: ignore[misc]
            yield f"train-{round_}", lambda k=round_: self._train(k)  # type: ignore[misc]
            yield f"evaluate-{round_}", lambda k=round_: self._evaluate(k)  # type: ignore[misc]

    def _names(self) -> list[str]:
        return [name for name, _ in self._phases()]

    def _done(self, name: str) -> Json | None:
        path = self.directory / "phases" / f"{name}.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def _once(self, name: str, phase: Callable[[], Json]) -> None:
        if self._done(name) is not None:
            return
        began = time.process_time()
        result = phase()
        result["cpu_seconds"] = time.process_time() - began
        path = self.directory / "phases" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, result)
        self._write_metrics()

    def _demonstrate(self) -> Json:
        """Collect the expert's episodes; tasks that it fails are named and left out."""
        tasks = self._train_tasks(0, self.config.demonstrations)
        return self._expert("demonstrate", tasks)

    def _clone(self) -> Json:
        policy = self._initial()
        experience = Experience(demonstrations=self._stored("demonstrate"))
        return self._trained(policy, self.cloning.train, experience, "clone", 0)

    def _explore(self, round_: int) -> Json:
        """Let the policy of the round before try fresh tasks."""
        if not self.algorithm.needs_exploration and not self.algorithm.needs_experts:
            return {"env_steps": 0}
        tasks = self._train_tasks(round_, self.config.tasks)
        account: Json = {"env_steps": 0}
        if self.algorithm.needs_exploration:
            policy = self._policy(round_ - 1, self.config.temperature)
            episodes = self._rollout(
                policy, tasks, f"explore/{round_}", samples=self.config.samples
            )
            account = _account(episodes)
        if self.algorithm.needs_experts:
            shown = self._expert(f"experts/{round_}", tasks)
            account |= {"expert_steps": shown["env_steps"], "failed": shown["failed"]}
        return account

    def _train(self, round_: int) -> Json:
        kept = range(max(1, round_ - self.config.rounds_kept + 1), round_ + 1)
        experience = Experience(
            self._stored("demonstrate"),
            [one for past in kept for one in self._stored(f"explore/{past}")],
            [one for past in kept for one in self._stored(f"experts/{past}")],
        )
        policy = self._policy(round_ - 1)
        return self._trained(policy, self.algorithm.train, experience, f"train-{round_}", round_)

    def _evaluate(self, iteration: int) -> Json:
        panels = {}
        for panel, count in self.config.panels.items():
            episodes = self._rollout(
                self._policy(iteration, self.config.evaluation_temperature),
                self.tasks.ids(panel, count),
                f"evaluate/{iteration}/{panel}",
                keep_candidates=False,
            )
            summary: Summary = summarise(episodes)
            panels[panel] = summary.to_json()
        return {"panels": panels, "env_steps": sum(row["env_steps"] for row in panels.values())}

    # What phases share.

    def _trained(
        self,
        policy: TrainablePolicy,
        train: Callable[[TrainablePolicy, Experience, Path], Report],
        experience: Experience,
        name: str,
        iteration: int,
    ) -> Json:
        try:
            report = train(policy, experience, self.directory / "training" / name)
        except NothingToLearn as error:
            if iteration == 0:
                raise
            # A policy that solves every task leaves no pairs: the run goes on with it as it is.
            logger.warning("%s changed nothing: %s", name, error)
            report = Report(self.config.algorithm, 0, 0, 0, 0.0, details={"nothing": str(error)})
        final = self._checkpoint(iteration)
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        policy.save(partial)
        # A kill between these two leaves no policy, and no phase file: the phase runs again.
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        shutil.rmtree(self.directory / "training" / name, ignore_errors=True)
        return report.to_json()

    def _checkpoint(self, iteration: int) -> Path:
        return self.directory / "checkpoints" / self._label(iteration)

    def _label(self, iteration: int) -> str:
        return "bc" if iteration == 0 else f"{self.config.algorithm}-{iteration}"

    def _initial(self) -> TrainablePolicy:
        """Make the policy that knows nothing yet."""
        options = {"seed": self.config.seed, **self.config.agent_options}
        policy = make_agent(self.config.agent, **options)
        if not isinstance(policy, TrainablePolicy):
            raise BadInput(
                f"agent `{self.config.agent}` cannot be trained; "
                "give `ranker`, `tiny` or `transformers`"
            )
        return policy

    def _policy(self, iteration: int, temperature: float = 0.0) -> TrainablePolicy:
        policy = make_agent(self._checkpoint(iteration))
        info = PolicyInfo(
            self.config.agent, iteration=iteration, temperature=temperature, seed=self.config.seed
        )
        return cast("TrainablePolicy", policy).with_info(info)

    def _expert(self, group: str, tasks: Sequence[str]) -> Json:
        """Collect the expert's episodes; what it fails is named, and no algorithm clones it."""
        episodes = self._rollout(make_agent("expert"), tasks, group, keep_candidates=True)
        failed = [one.task_id for one in episodes if not one.success]
        if len(failed) == len(episodes):
            raise BadInput(
                f"the expert failed every one of the {len(failed)} tasks of `{group}`, the first "
                f"`{failed[0]}`; allow more turns, or mend the environment's `solve`"
            )
        if failed:
            logger.warning(
                "the expert failed %d of %d tasks of `%s`, which are left out: %s",
                len(failed), len(episodes), group, ", ".join(failed[:20]),
            )  # fmt: skip
        return _account(episodes) | {"failed": failed}

    def _rollout(
        self,
        policy: Policy,
        tasks: Sequence[str],
        group: str,
        *,
        samples: int = 1,
        keep_candidates: bool | None = None,
    ) -> list[Trajectory]:
        episodes = rollout(
            policy, self._make, tasks, env=self.config.environment, samples=samples, group=group,
            store=self.store, limits=self.limits, keep_candidates=keep_candidates,
            show_progress=self.show_progress,
        )  # fmt: skip
        faults = [one for one in episodes if one.faulty]
        if faults:
            raise Fault(
                f"{len(faults)} of {len(episodes)} episodes of `{group}` failed for reasons "
                f"outside the agent ({faults[0].error}); mend it and run the same command again"
            )
        return episodes

    def _stored(self, group: str) -> list[Trajectory]:
        return list(self.store.trajectories(group))

    def _train_tasks(self, round_: int, count: int) -> list[str]:
        """Give tasks that no other round and no run of another seed learns from."""
        size = self.tasks.size("train")
        start = round_ * max(self.config.tasks, self.config.demonstrations)
        if size is None:
            return self.tasks.ids("train", count, self.config.seed * TASKS_PER_SEED + start)
        return [self.tasks.task_id("train", (start + i) % size) for i in range(count)]

    def _make(self) -> TextEnv[Any]:
        return make(self.config.environment, **self.config.environment_options)

    def _check(self) -> None:
        """Refuse, before anything runs, what would fail after an hour."""
        for panel, count in self.config.panels.items():
            self.tasks.ids(panel, count)

    def _write_metrics(self) -> None:
        lines = []
        for name in self._names():
            done = self._done(name)
            for epoch, row in enumerate((done or {}).get("metrics", ()), 1):
                lines.append(json.dumps({"phase": name, "epoch": epoch, **row}))
        path = self.directory / "metrics.jsonl"
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        partial.replace(path)


def _account(episodes: Sequence[Trajectory]) -> Json:
    summary = summarise(episodes)
    return {"env_steps": summary.env_steps, "success": summary.success_rate}


def _manifest() -> Json:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"python": platform.python_version(), "machine": platform.machine(), **versions}


def command(
    *,
    out: Path,
    preset: str | None = None,
    config: Path | None = None,
    seed: int | None = None,
    set: dict[str, Any] | None = None,
    json: bool = False,
) -> int:
    """Explore, train and evaluate, round after round; the same command again resumes.

    Args:
        out: the run directory.
        preset: name of a configuration that comes with trialgym: `laptop`, `tiny`.
        config: YAML file with a configuration; its fields override the preset's.
        seed: of the run; overrides the configuration's.
        set: single fields that override the configuration's, as `{"rounds": 2}`.
        json: print the rows of `results.json` instead of a table.
    """
    from trialgym.cli import show

    settings = load(preset, config, {**(set or {}), **({} if seed is None else {"seed": seed})})
    rows = Loop(settings, out, show_progress=not json and sys.stderr.isatty()).run()
    show(rows, json=json)
    if not json:
        print(f"report: {out / 'report.html'}")
    return 0
