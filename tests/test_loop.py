"""The loop: what it leaves behind, that a kill anywhere changes nothing, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the `train` extra is not installed")

from loop_driver import CONFIG

from trialgym.algorithms.loop import Loop, command
from trialgym.algorithms.loop_config import LoopConfig, configure, load
from trialgym.algorithms.pairs import PairRules
from trialgym.errors import BadFile, BadInput, RunConflict, UnknownId
from trialgym.store import Store, run_lock

COLUMNS = ["policy", "panel", "episodes", "success", "low", "high", "seed"]
COLUMNS += ["env_steps", "train_tokens", "cpu_seconds"]


def drive(directory: Path, manner: str) -> dict[str, Any]:
    driver = Path(__file__).with_name("loop_driver.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(driver), str(directory), manner],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("loop") / "run"
    Loop(CONFIG, directory).run()
    return directory


def test_a_finished_run_has_all_that_the_docstring_promises(finished: Path) -> None:
    rows = json.loads((finished / "results.json").read_text())
    assert [list(row) for row in rows] == [COLUMNS] * 6
    assert [row["policy"] for row in rows[::2]] == ["bc", "eto-1", "eto-2"]
    assert [row["panel"] for row in rows[:2]] == ["test", "test_unseen"]
    assert [row["episodes"] for row in rows[:2]] == list(CONFIG.panels.values())
    assert all(row["low"] <= row["success"] <= row["high"] for row in rows)
    assert [row["env_steps"] for row in rows] == sorted(row["env_steps"] for row in rows)
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"bc", "eto-1", "eto-2"}
    assert "<svg" in (finished / "report.html").read_text()
    assert json.loads((finished / "manifest.json").read_text())["torch"]
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in metrics} == {"clone", "train-1", "train-2"}
    with Store(finished / "trajectories.sqlite", run=CONFIG.name) as store:
        groups = store.groups()
    assert groups["explore/1"] == groups["explore/2"] == CONFIG.tasks * CONFIG.samples
    assert groups["evaluate/2/test"] == CONFIG.panels["test"]


def test_every_round_explores_tasks_that_no_other_round_or_seed_has_seen(finished: Path) -> None:
    with Store(finished / "trajectories.sqlite", run=CONFIG.name) as store:
        seen = {
            group: {row["task_id"] for row in store.summaries(group)}
            for group in ("demonstrate", "explore/1", "explore/2")
        }
    assert len(set.union(*seen.values())) == sum(map(len, seen.values()))
    other = Loop(replace(CONFIG, seed=1), finished.parent / "other")
    assert not set(other._train_tasks(1, CONFIG.tasks)) & set.union(*seen.values())


def test_running_again_does_nothing_and_gives_the_same_rows(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    rows = Loop(CONFIG, finished).run()
    assert rows == json.loads((finished / "results.json").read_text())
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}


def test_a_round_without_pairs_keeps_the_policy_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**CONFIG.algorithm_options, "pairs": {"source": "self", "margin": 2.0}}
    Loop(replace(CONFIG, algorithm_options=options, rounds=1), tmp_path / "run").run()
    assert "no pairs" in caplog.text
    policies = [
        (tmp_path / "run" / "checkpoints" / name / "model.safetensors").read_bytes()
        for name in ("bc", "eto-1")
    ]
    assert policies[0] == policies[1]
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["policy"] for row in rows] == ["bc", "bc", "eto-1", "eto-1"]


def test_tasks_that_the_expert_fails_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = replace(CONFIG, environment_options={"max_turns": 8}, rounds=0, demonstrations=12)
    Loop(short, tmp_path / "some").run()
    phase = json.loads((tmp_path / "some" / "phases" / "demonstrate.json").read_text())
    assert 0 < len(phase["failed"]) < 12
    assert phase["failed"][0] in caplog.text
    cloned = json.loads((tmp_path / "some" / "phases" / "clone.json").read_text())
    assert cloned["rows"] == 12 - len(phase["failed"])
    with pytest.raises(BadInput, match="failed every one"):
        Loop(replace(short, environment_options={"max_turns": 1}), tmp_path / "all").run()


@pytest.mark.parametrize("manner", ["after", pytest.param("before", marks=pytest.mark.slow)])
def test_a_run_killed_at_many_points_ends_as_an_unkilled_one(tmp_path: Path, manner: str) -> None:
    whole = drive(tmp_path / "whole", "whole")
    assert whole.pop("kills") == 0
    assert whole["episodes"] == whole["distinct"]
    assert whole["left"] == []
    killed = drive(tmp_path / "killed", manner)
    assert killed.pop("kills") >= 10
    assert killed == whole


def test_a_directory_of_another_configuration_is_refused_and_left_alone(finished: Path) -> None:
    before = (finished / "config.json").read_text()
    with pytest.raises(RunConflict, match="`seed` is 0, not 5"):
        Loop(replace(CONFIG, seed=5), finished).run()
    assert (finished / "config.json").read_text() == before


def test_two_processes_cannot_work_on_one_directory(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(RunConflict, match="in use"):
        Loop(CONFIG, tmp_path).run()


def test_what_cannot_work_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for change, complaint in (
        ({"panels": {"tset": 5}}, "did you mean `test`"),
        ({"panels": {"test": 10**9}}, "ask for fewer"),
        ({"algorithm": "etto"}, "did you mean `eto`"),
        ({"environment": "trialgym/Houshold-v0"}, "did you mean `trialgym/Household-v0`"),
        ({"algorithm_options": {"bta": 1}}, "did you mean `beta`"),
        ({"algorithm_options": {"beta": "much"}}, "wanted float"),
    ):
        with pytest.raises((BadInput, UnknownId), match=complaint):
            Loop(replace(CONFIG, **change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_agent_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be trained"):
        Loop(replace(CONFIG, agent="random"), tmp_path).run()


def test_a_partly_given_section_keeps_the_rest_of_its_defaults() -> None:
    made = configure(PairRules, {"source": "self"}, "pairs")
    assert made == PairRules(source="self")
    config = load("laptop", None, {"seed": 3})
    assert config.seed == 3
    assert config.panels["test"] >= 500


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rounds: [", "not YAML"),
        ("- 1", "`field: value`"),
        ("roundz: 1", "did you mean `rounds`"),
        ("rounds: many", "wanted int"),
        ("tasks: 0", "wanted at least 1"),
    ],
)
def test_a_spoilt_configuration_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text(text)
    with pytest.raises((BadFile, BadInput, UnknownId), match=complaint):
        load(None, path, {})


def test_an_unknown_preset_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownId, match="did you mean `laptop`"):
        load("labtop", None, {})
    assert load("laptop", None, {}) == replace(
        LoopConfig(),
        **{
            name: getattr(load("laptop", None, {}), name)
            for name in ("name", "environment_options", "clone_options", "algorithm_options")
        },
    )


def test_the_command_prints_the_rows_as_one_json_array(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"rounds": 0, "demonstrations": 4, "panels": {"test": 5}}
    assert command(out=tmp_path / "run", preset="laptop", set=small, json=True) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in rows] == ["bc"]
