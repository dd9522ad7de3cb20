"""Lists run directories: what ran there, how far it is, and how well it went.

Command: `trialgym runs`
"""

import json as jsonlib
from pathlib import Path
from typing import Any

from trialgym.cli import show
from trialgym.errors import BadFile, BadInput, StorageFull
from trialgym.records import Json
from trialgym.store import open_source

LAST_FILES = ("summary.json", "report.json", "report.html")
"""What rollout and evaluate, train, and the loop write when all is done."""


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
    summary = _json_file(run / "summary.json", [])
    rows = summary if isinstance(summary, list) else [summary]
    rates = [row["success_rate"] for row in rows]
    rates += [row["success"] for row in _json_file(run / "results.json", [])]
    finished = any((run / name).is_file() for name in LAST_FILES)
    return {
        "name": run.name,
        "command": config.get("command", "loop"),
        "state": "finished" if finished else "unfinished",
        "phase": None if finished else _phase(run),
        "env": config.get("env", config.get("environment")),
        "agent": config.get("agent", config.get("policy")),
        "episodes": _episodes(run),
        "best_success": max(rates, default=None),
    }


def _phase(run: Path) -> str:
    ended = sorted((run / "phases").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return f"after {ended[-1].stem}" if ended else "first"


def _episodes(run: Path) -> int | None:
    """Count the stored episodes; a run that kept them in a database of its own has none here."""
    if not (run / "trajectories.sqlite").is_file():
        return 0
    try:
        with open_source(str(run)) as store:
            return sum(store.groups().values())
    except (BadInput, StorageFull):  # damaged or out of reach: the others still are to be listed
        return None


def _json_file(path: Path, default: Any) -> Any:
    try:
        return jsonlib.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
    except ValueError as error:
        raise BadFile(path, f"not JSON ({error})") from error
