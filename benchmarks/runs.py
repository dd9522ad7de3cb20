"""Lists run directories: what ran there, how far it is, and how well it went.

Command: `trialgym runs`
"""

import json as jsonlib
from pathlib import Path
from typing import Any

from trialgym.cli import show
from trialgym.errors import BadFile
from trialgym.records import Json
from trialgym.store import open_source


def runs(directory: Path = Path("runs"), *, json: bool = False) -> int:
    """List run directories and how far they are.

    Args:
        directory: where the run directories stand.
        json: print a JSON array instead of a table.
    """
    if not directory.is_dir():
        raise BadFile(directory, "no such directory; wanted one that holds run directories")
    found = [directory, *sorted(directory.iterdir())]
    show([_run_row(run) for run in found if (run / "config.json").is_file()], json=json)
    return 0


def _run_row(run: Path) -> Json:
    config = _json_file(run / "config.json", {})
    results = _json_file(run / "results.json", [])
    summary = _json_file(run / "summary.json", {})
    rates = [row["success"] for row in results] + [
        row["success_rate"] for row in (summary if isinstance(summary, list) else [summary]) if row
    ]
    groups: dict[str, int] = {}
    if (run / "trajectories.sqlite").is_file():
        with open_source(str(run)) as kept:
            groups = kept.groups()
    ends = ("summary.json", "report.json", "report.html")
    finished = any((run / name).is_file() for name in ends)
    return {
        "name": run.name,
        "command": config.get("command", "loop"),
        "state": "finished" if finished else "unfinished",
        "phase": None if finished else next(reversed(groups), "begun"),
        "env": config.get("env"),
        "agent": config.get("agent", config.get("policy")),
        "episodes": sum(groups.values()),
        "best_success": max(rates, default=None),
    }


def _json_file(path: Path, default: Any) -> Any:
    try:
        return jsonlib.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
    except ValueError as error:
        raise BadFile(path, f"not JSON ({error})") from error
