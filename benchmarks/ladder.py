"""Does learning from failures pay? The loop beside controls of equal compute, over several seeds.

Each arm starts from the same behaviour-cloned policy and makes as many updates a round, over
batches of as many trajectories. Success is compared task by task with the same seed's other arms;
intervals come from a bootstrap that draws seeds anew, and within them tasks.

Command: `python -m trialgym.benchmarks.ladder --preset laptop --out runs/ladder`
The same command resumes. Its table stands in docs/results.md.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialgym.records import Json
from trialgym.registry import locate
from trialgym.store import Store, write_json

DRAWS = 10_000
MEANING = {
    "eto": "DPO on own successes against own failures",
    "eto-expert": "strict ETO: DPO on the expert's episode against own failures",
    "rft": "control: cloning own successes and the demonstrations, same episodes and updates",
    "bc": "control: as many more updates on the demonstrations",
    "bc-experts": "control: cloning the expert on the very tasks that the others explore",
}


def arms(options: Mapping[str, Any]) -> dict[str, Json]:
    """Give each arm's changes to the preset; batches hold as many trajectories everywhere."""
    # A batch of pairs holds two trajectories a pair.
    cloning: Json = {
        section: {**options[section], "batch": 2 * options[section]["batch"]}
        for section in ("schedule", "language")
        if section in options
    }
    pairs = options.get("pairs", {})
    return {
        "eto": {},
        "eto-expert": {"algorithm_options": {**options, "pairs": {**pairs, "source": "expert"}}},
        "rft": {"algorithm": "rft", "algorithm_options": cloning},
        "bc": {"algorithm": "bc", "algorithm_options": cloning},
        "bc-experts": {
            "algorithm": "bc",
            "algorithm_options": {**cloning, "with_experts": True},
        },
    }


def climb(
    preset: str,
    seeds: Sequence[int],
    out: Path,
    chosen: Sequence[str],
    changes: Mapping[str, Any],
) -> Json:
    """Run every arm with every seed, or what is left of it, and compare."""
    load = locate("trialgym.algorithms.loop_config:load")
    loop = locate("trialgym.algorithms.loop:Loop")
    base = load(preset, None, changes)
    table = arms(base.algorithm_options)
    success: dict[str, NDArray[np.float64]] = {}
    costs: dict[str, Json] = {}
    for arm in chosen:
        rows, last = [], []
        for seed in seeds:
            config = load(preset, None, {**changes, **table[arm], "seed": seed})
            directory = out / arm / str(seed)
            if arm != chosen[0]:
                # Rejection sampling explores first with the same policy, hence the same episodes.
                explored = ["explore-1"] if {arm, chosen[0]} == {"eto", "rft"} else []
                _share(out / chosen[0] / str(seed), directory, base, explored)
            last.append(loop(config, directory).run()[-1])
            rows.append(_success(directory, base.name, base.rounds, base.panels))
        success[arm] = np.array(rows)
        costs[arm] = {
            "cpu_seconds": round(mean(row["cpu_seconds"] for row in last), 1),
            "env_steps": round(mean(row["env_steps"] for row in last)),
            "train_tokens": round(mean(row["train_tokens"] for row in last)),
        }
        print(f"{arm}: {success[arm].mean(axis=(0, 2)).round(3).tolist()} {costs[arm]}", flush=True)
    return {
        "preset": preset,
        "seeds": list(seeds),
        "tasks": int(success[chosen[0]].shape[2]),
        "arms": {
            arm: {
                "meaning": MEANING[arm],
                "success": _means(success[arm], base.panels),
                "gain": _rounds(success[arm] - success[arm][:, :1]),
                "worst_seed_gain": float((success[arm][:, -1] - success[arm][:, 0]).mean(1).min()),
                "against_eto": _rounds(success[chosen[0]] - success[arm]),
                **costs[arm],
            }
            for arm in chosen
        },
    }


def _rounds(differences: NDArray[np.float64]) -> list[Json]:
    """Give the interval of paired differences (seeds, rounds, tasks) for each round after 0."""
    return [_difference(differences[:, at]) for at in range(1, differences.shape[1])]


def _share(source: Path, target: Path, config: Any, explored: Sequence[str]) -> None:
    """Give an arm the start that it has in common with the first, so that it is not run again."""
    if (target / "phases").exists():
        return
    shutil.copytree(source / "checkpoints" / "bc", target / "checkpoints" / "bc")
    groups = ["demonstrate", *(f"evaluate/0/{panel}" for panel in config.panels)]
    groups += [phase.replace("-", "/") for phase in explored]
    database = "trajectories.sqlite"
    with (
        Store(source / database, run=config.name) as theirs,
        Store(target / database, run=config.name) as ours,
    ):
        for group in groups:
            ours.add(theirs.trajectories(group))
    partial = target / "phases.partial"
    partial.mkdir(exist_ok=True)
    for phase in ("demonstrate", "clone", "evaluate-0", *explored):
        shutil.copy(source / "phases" / f"{phase}.json", partial)
    partial.rename(target / "phases")


def _success(
    directory: Path, run: str, rounds: int, panels: Mapping[str, int]
) -> list[list[float]]:
    """Give the success of every task, all panels in a row, by round."""
    with Store(directory / "trajectories.sqlite", run=run) as store:
        return [
            [
                float(row["success"])
                for panel in panels
                for row in store.summaries(f"evaluate/{round_}/{panel}")
            ]
            for round_ in range(rounds + 1)
        ]


def _means(success: NDArray[np.float64], panels: Mapping[str, int]) -> Json:
    ends = np.cumsum(list(panels.values()))[:-1]
    parts = np.split(success, ends, axis=2)
    means = {name: part.mean(axis=(0, 2)) for name, part in zip(panels, parts, strict=True)}
    return {name: row.round(4).tolist() for name, row in means.items()}


def _difference(values: NDArray[np.float64]) -> Json:
    """Give the mean of paired differences (seeds, tasks) and its 95 % interval."""
    generator = np.random.default_rng(0)
    seeds, tasks = values.shape
    means = np.empty(DRAWS)
    for draw in range(DRAWS):
        rows = generator.integers(0, seeds, seeds)
        columns = generator.integers(0, tasks, tasks)
        means[draw] = values[rows][:, columns].mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def markdown(result: Json) -> str:
    """Write the comparison as two tables."""
    first = next(iter(result["arms"].values()))
    rounds = range(1, len(first["gain"]) + 1)
    panels = list(first["success"])
    head = ["arm", "panel", "bc", *(f"round {r}" for r in rounds)]
    lines = [_line(head), _line(["---"] * len(head))]
    for arm, row in result["arms"].items():
        for panel in panels:
            lines.append(_line([arm, panel, *(f"{100 * v:.1f}" for v in row["success"][panel])]))
    head = ["arm", "gain over bc", "worst seed", *(f"eto ahead, round {r}" for r in rounds)]
    head += ["environment steps", "CPU seconds a seed"]
    lines += ["", _line(head), _line(["---"] * len(head))]
    for arm, row in result["arms"].items():
        ahead = [_points(cell) for cell in row["against_eto"]]
        if arm == next(iter(result["arms"])):
            ahead = ["" for _ in ahead]
        cells = [arm, _points(row["gain"][-1]), f"{100 * row['worst_seed_gain']:+.1f}", *ahead]
        lines.append(_line([*cells, f"{row['env_steps']:,}", f"{row['cpu_seconds']}"]))
    return "\n".join(lines)


def _points(cell: Json) -> str:
    return f"{100 * cell['mean']:+.1f} [{100 * cell['low']:+.1f}, {100 * cell['high']:+.1f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=MEANING, default=list(MEANING))
    parser.add_argument("--set", type=json.loads, default={}, help="fields to change, as JSON")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result = climb(given.preset, given.seeds, given.out, given.arms, given.set)
    write_json(given.out / "ladder.json", result)
    print(json.dumps(result) if given.json else markdown(result))


if __name__ == "__main__":
    main()
