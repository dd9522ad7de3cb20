"""Runs the command for tests: in this process, or in one that can be killed.

A test module imports the fixtures that it asks for.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trialgym.cli import main

HOUSEHOLD, DATABASE = "trialgym/Household-v0", "trialgym/Database-v0"
DATA = Path(__file__).parents[1].parent / "shared" / "data"
SUMMARY = {
    "env", "agent", "tasks", "episodes", "success_rate", "low", "high", "score_mean",
    "invalid_rate", "turns_mean", "env_steps", "faults",
}  # fmt: skip


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def run(empty_directory: None, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; gives status, standard output and standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(words)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def refused(run: Run) -> Refused:
    """Run a command that must fail with one line of error and nothing else."""

    def call(*words: str) -> str:
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return call


def answer(run: Run, *words: str) -> Any:
    """Run a command with --json; its output must be one document and nothing else."""
    status, out, _ = run(*words, "--json")
    assert status == 0
    return json.loads(out)


def python(code: str, *words: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        **options,
    )


COMMAND = "import sys; from trialgym.cli import main; sys.exit(main(sys.argv[1:]))"


def rollout(*more: str, agent: str = "expert", tasks: str = "test:0:4") -> list[str]:
    return ["rollout", HOUSEHOLD, "--tasks", tasks, "--agent", agent, "--out", "run", *more]
