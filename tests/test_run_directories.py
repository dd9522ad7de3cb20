"""Run directories: what verbs leave there, resume from, refuse, lock, export and list."""

# ruff: noqa: F401, F811 (fixtures are imported, then asked for by name)

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from commands import (
    COMMAND,
    DATA,
    DATABASE,
    HOUSEHOLD,
    SUMMARY,
    Refused,
    Run,
    answer,
    empty_directory,
    python,
    refused,
    rollout,
    run,
)
from hypothesis import given
from hypothesis import strategies as st

from trialgym.benchmarks.evaluate import paired_interval
from trialgym.cli import parse
from trialgym.errors import BadInput, TrialgymError
from trialgym.store import Store, read_file, run_lock, without_password

pytestmark = pytest.mark.usefixtures("empty_directory")


# rollout.


def test_a_rollout_fills_a_run_directory(run: Run) -> None:
    row = answer(run, *rollout())
    assert set(row) == SUMMARY
    assert (row["episodes"], row["success_rate"], row["score_mean"], row["faults"]) == (4, 1, 1, 0)
    config = json.loads(Path("run/config.json").read_text())
    assert (config["env"], config["agent"], config["tasks"]) == (HOUSEHOLD, "expert", "test:0:4")
    assert json.loads(Path("run/summary.json").read_text()) == row
    with Store(Path("run/trajectories.sqlite")) as store:
        ids = [row["task_id"] for row in store.summaries("rollout")]
    assert ids == [f"household/test/{i:06d}" for i in range(4)]


def test_the_table_says_the_same(run: Run) -> None:
    status, out, _ = run(*rollout())
    assert status == 0
    assert "expert" in out and "100.0%" in out


def test_the_same_command_again_plays_nothing_again(run: Run) -> None:
    first = answer(run, *rollout())
    modified = Path("run/config.json").stat().st_mtime_ns
    before = [t.to_json() for t in Store(Path("run/trajectories.sqlite")).trajectories()]
    assert answer(run, *rollout("--concurrency", "2")) == first
    after = [t.to_json() for t in Store(Path("run/trajectories.sqlite")).trajectories()]
    assert before == after
    assert Path("run/config.json").stat().st_mtime_ns == modified


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (rollout(tasks="test:0:5"), "`tasks` is 'test:0:4', not 'test:0:5'"),
        (rollout(agent="null"), "`agent` is 'expert', not 'null'"),
        (rollout("--seed", "3"), "`seed` is None, not 3"),
        (rollout("--env_options.max_turns", "9"), "`env_options` is {}, not {'max_turns': 9}"),
    ],
)
def test_another_configuration_is_refused_and_nothing_changes(
    changed: list[str], told: str, run: Run, refused: Refused
) -> None:
    before = answer(run, *rollout())
    assert told in refused(*changed, "--json")
    assert answer(run, *rollout()) == before


@pytest.mark.parametrize(
    "mistake", [["--samples", "0"], ["--concurrency", "0"], ["--store", "nosuch://host/name"]]
)
def test_a_mistaken_option_does_not_claim_the_directory(
    mistake: list[str], run: Run, refused: Refused
) -> None:
    refused(*rollout(*mistake))
    assert answer(run, *rollout())["episodes"] == 4


def test_a_changed_benchmark_file_is_another_configuration(run: Run, refused: Refused) -> None:
    source = DATA / "agentbench" / "dbbench_dev.jsonl"
    if not source.is_file():
        pytest.skip("AgentBench's dbbench_dev.jsonl is not on this machine")
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    Path("tasks.jsonl").write_text("".join(lines[:2]), encoding="utf-8")
    words = ["rollout", DATABASE, "--tasks", "tasks.jsonl", "--agent", "expert", "--out", "run"]
    row = answer(run, *words)
    assert (row["episodes"], row["success_rate"]) == (2, 1.0)
    Path("tasks.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    assert "`tasks_digest`" in refused(*words)


def test_a_spoilt_configuration_is_told(run: Run, refused: Refused) -> None:
    answer(run, *rollout())
    Path("run/config.json").write_text("{")
    assert "run/config.json: not a run's configuration" in refused(*rollout())


def test_samples_and_seed_reach_the_agent(run: Run) -> None:
    row = answer(run, *rollout("--samples", "3", "--seed", "5", agent="random", tasks="test:0:2"))
    assert row["episodes"] == 6
    with Store(Path("run/trajectories.sqlite")) as store:
        episodes = list(store.trajectories("rollout"))
    assert {one.policy.seed for one in episodes} == {5}
    assert len({one.actions for one in episodes}) == 6


def test_candidates_are_recorded_on_demand(run: Run) -> None:
    for more, wanted in (([], False), (["--candidates"], True)):
        words = ["rollout", HOUSEHOLD, "--tasks", "test:0:1", "--agent", "expert"]
        answer(run, *words, "--out", f"run{wanted}", *more)
        with Store(Path(f"run{wanted}/trajectories.sqlite")) as store:
            (episode,) = store.trajectories()
        assert all(bool(turn.candidates) is wanted for turn in episode.turns)


def test_episodes_can_go_to_a_database_by_url(run: Run, refused: Refused) -> None:
    url = f"sqlite:///{Path.cwd()}/shared.sqlite"
    answer(run, *rollout("--store", url))
    words = ["rollout", HOUSEHOLD, "--tasks", "test:0:2", "--agent", "null", "--out", "other"]
    answer(run, *words, "--store", url)
    assert not list(Path("run").glob("*.sqlite"))
    told = refused("export", url, "--out", "x.jsonl")
    assert "wanted" in told
    other, name = re.findall(r"'(\S+)'", told)
    assert (other.rpartition("-")[0], name.rpartition("-")[0]) == ("other", "run")
    row = answer(run, "export", f"{url}#{name}", "--out", "x.jsonl")
    assert row == {"trajectories": 4, "out": "x.jsonl"}
    assert "run `no`" in refused("export", f"{url}#no", "--out", "x.jsonl")


def test_directories_of_one_name_share_episodes_of_one_configuration_only(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["rollout", HOUSEHOLD, "--tasks", "test:0:2", "--agent", "null", "--out", "same"]
    words += ["--store", f"sqlite:///{tmp_path}/shared.sqlite"]
    turns = []
    for place, more in (("a", ["5"]), ("b", ["7"]), ("c", ["5"])):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        turns.append(answer(run, *words, "--env_options.max_turns", *more)["turns_mean"])
    assert turns == [5, 7, 5]
    with Store(tmp_path / "shared.sqlite") as store:
        assert len(store.runs()) == 2


def test_a_password_is_not_written_down() -> None:
    assert (
        without_password("postgresql+psycopg://me:se:cret@host/name")
        == "postgresql+psycopg://me@host/name"
    )
    assert without_password("sqlite:///a:b@c.sqlite") == "sqlite:///a:b@c.sqlite"


# Two processes, a kill, and Ctrl-C.


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """A process that holds the directory `run`."""
    process = python(
        "from pathlib import Path; from trialgym.store import run_lock\n"
        "with run_lock(Path('run')): print('held', flush=True); input()"
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_directory_in_use_is_refused_until_its_process_dies(
    holder: subprocess.Popen[str], run: Run, refused: Refused
) -> None:
    told = refused(*rollout("--json"))
    assert f"in use by process {holder.pid} on" in told
    assert not Path("run/config.json").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert answer(run, *rollout())["episodes"] == 4


def test_one_process_cannot_hold_a_directory_twice(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        with pytest.raises(TrialgymError, match="in use"), run_lock(tmp_path / "x" / ".." / "run"):
            pass
        with run_lock(tmp_path / "other"):
            pass
    with run_lock(tmp_path / "run"):
        pass


def test_the_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError), run_lock(tmp_path):
        raise ValueError
    with run_lock(tmp_path):
        pass


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    code = (
        "import os, time; from pathlib import Path; from trialgym.store import run_lock\n"
        "with run_lock(Path('run')):\n"
        "    if os.fork() == 0: print(os.getpid(), flush=True); time.sleep(60)\n"
        "    time.sleep(60)"
    )
    process = python(code)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        with run_lock(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_ctrl_c_says_how_to_resume_and_loses_nothing(run: Run) -> None:
    words = rollout("--seed", "1", "--concurrency", "4", agent="random", tasks="test:0:300")
    process = python(COMMAND, *words)
    until = time.monotonic() + 60
    while time.monotonic() < until and not _stored():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    kept = _stored()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == f"interrupted; to resume: trialgym {shlex.join(words)}"
    assert 0 < kept < 300
    assert answer(run, *words)["episodes"] == 300
    assert _stored() == 300


def _stored() -> int:
    """Count what is stored, only reading: opening a `Store` would make its tables."""
    try:
        with closing(sqlite3.connect("file:run/trajectories.sqlite?mode=ro", uri=True)) as database:
            return int(database.execute("select count(*) from trajectories").fetchone()[0])
    except sqlite3.OperationalError:  # no file or no table yet
        return 0


# evaluate.


def test_one_agent_gives_one_object(run: Run) -> None:
    row = answer(run, "evaluate", HOUSEHOLD, "--agent", "null", "--count", "6")
    assert set(row) == SUMMARY
    assert (row["episodes"], row["success_rate"], row["faults"]) == (6, 0, 0)
    assert list(Path().iterdir()) == [], "nothing is kept without --out"


def test_several_agents_are_compared_with_the_first(run: Run) -> None:
    words = ["evaluate", HOUSEHOLD, "--agent", "null", "expert", "null", "--count", "6"]
    words += ["--env_options.max_turns", "20", "--out", "run"]
    rows = answer(run, *words)
    assert [row["agent"] for row in rows] == ["null", "expert", "null"]
    assert [row["difference"] for row in rows] == [None, 1.0, 0.0]
    assert (rows[1]["difference_low"], rows[1]["difference_high"]) == (1.0, 1.0)
    with Store(Path("run/trajectories.sqlite")) as store:
        groups = store.groups()
    assert groups == {"evaluate/0-null": 6, "evaluate/1-expert": 6, "evaluate/2-null": 6}
    assert answer(run, *words) == rows
    status, out, _ = run(*words)
    assert status == 0 and "+100.0% (+100.0% to +100.0%)" in out


def test_all_of_agentbenchs_database_tasks_are_read(run: Run) -> None:
    source = DATA / "agentbench" / "dbbench_dev.jsonl"
    if not source.is_file():
        pytest.skip("AgentBench's dbbench_dev.jsonl is not on this machine")
    row = answer(run, "evaluate", DATABASE, "--agent", "null", "--split", str(source))
    assert (row["episodes"], row["faults"]) == (60, 0)


def test_equal_agents_differ_by_nothing() -> None:
    assert paired_interval([1, 0, 0.5], [1, 0, 0.5]) == (0, 0, 0)
    assert paired_interval([0] * 5, [1] * 5) == (1, 1, 1)


def test_the_interval_agrees_with_the_normal_approximation() -> None:
    # 1000 tasks: 300 mended, 100 lost; sd of a difference is sqrt(.4 - .2 ** 2) = .6.
    baseline = [0.0] * 300 + [1.0] * 100 + [1.0] * 600
    other = [1.0] * 300 + [0.0] * 100 + [1.0] * 600
    difference, low, high = paired_interval(baseline, other)
    half = 1.96 * 0.6 / 1000**0.5
    assert difference == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.2 - half, 0.2 + half), abs=0.002)


def test_pairing_is_narrower_than_not_pairing() -> None:
    easy = [float(i % 2) for i in range(400)]
    better = [1.0 if i % 20 == 0 else value for i, value in enumerate(easy)]
    _, low, high = paired_interval(easy, better)
    _, shuffled_low, shuffled_high = paired_interval(easy, better[1:] + better[:1])
    assert low > 0 and high - low < 0.4 * (shuffled_high - shuffled_low)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_swapping_the_agents_mirrors_the_interval(values: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in values], [y for _, y in values]
    difference, low, high = paired_interval(a, b, draws=200)
    mirrored = paired_interval(b, a, draws=200)
    assert mirrored == pytest.approx((-difference, -high, -low), abs=1e-9)
    assert low <= high and paired_interval(a, b, draws=200) == (difference, low, high)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1], [1, 0])])
def test_unequal_or_no_values_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(BadInput, match="as many of both"):
        paired_interval(a, b)


# train, export, runs, check.


def test_from_demonstrations_to_a_policy_that_can_be_evaluated(run: Run) -> None:
    answer(run, *rollout("--candidates", tasks="train:0:6"))
    words = ["--policy", "ranker", "--demonstrations", "run", "--schedule.epochs", "2"]
    report = answer(run, "train", "bc", *words, "--out", "policy")
    assert (report["algorithm"], report["rows"]) == ("bc", 6)
    assert json.loads(Path("policy/report.json").read_text()) == report
    assert len(report["metrics"]) == 2
    row = answer(run, "evaluate", HOUSEHOLD, "--agent", "policy", "--count", "3")
    assert (row["episodes"], row["faults"]) == (3, 0)
    status, _, err = run("train", "bc", *words, "--out", "policy", "--schedule.batch", "2")
    assert status == 2 and "`options`" in err
    (listed,) = [row for row in answer(run, "runs", ".") if row["name"] == "policy"]
    assert (listed["command"], listed["state"], listed["agent"]) == ("train", "finished", "ranker")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_export_reads_back_as_it_was_stored(suffix: str, run: Run) -> None:
    answer(run, *rollout())
    row = answer(run, "export", "run", "--out", f"deep/er/x.{suffix}")
    assert row["trajectories"] == 4
    with Store(Path("run/trajectories.sqlite")) as store:
        assert read_file(f"deep/er/x.{suffix}") == list(store.trajectories())


def test_an_export_of_an_unknown_group_or_kind_is_refused(run: Run, refused: Refused) -> None:
    answer(run, *rollout())
    assert "did you mean `rollout`" in refused(
        "export", "run", "--out", "x.jsonl", "--group", "rolout"
    )
    assert ".jsonl or .parquet" in refused("export", "run", "--out", "x.csv")
    assert not list(Path().glob("x.*"))


def test_runs_tell_what_is_finished(run: Run) -> None:
    answer(run, *rollout())
    Path("run/summary.json").rename("kept.json")
    (row,) = answer(run, "runs", ".")
    assert row == {
        "name": "run", "command": "rollout", "state": "unfinished", "phase": "first",
        "env": HOUSEHOLD, "agent": "expert", "episodes": 4, "best_success": None,
    }  # fmt: skip
    Path("kept.json").rename("run/summary.json")
    (row,) = answer(run, "runs", ".")
    assert (row["state"], row["phase"], row["best_success"]) == ("finished", None, 1.0)


def test_a_damaged_store_hides_no_other_run(run: Run) -> None:
    for name in ("good", "spoilt"):
        words = ["rollout", HOUSEHOLD, "--tasks", "test:0:2", "--agent", "null"]
        answer(run, *words, "--out", f"runs/{name}")
    Path("runs/spoilt/trajectories.sqlite").write_text("no database at all" * 99)
    rows = answer(run, "runs")
    assert [(row["name"], row["episodes"]) for row in rows] == [("good", 2), ("spoilt", None)]


def test_runs_tell_the_last_phase_of_a_loop(run: Run) -> None:
    phases = Path("runs/laptop/phases")
    phases.mkdir(parents=True)
    config = {"name": "laptop", "environment": HOUSEHOLD, "agent": "ranker"}
    Path("runs/laptop/config.json").write_text(json.dumps(config))
    for number, name in enumerate(("demonstrate", "clone", "evaluate-0")):
        (phases / f"{name}.json").write_text("{}")
        os.utime(phases / f"{name}.json", ns=(number, number))
    (row,) = answer(run, "runs")
    assert (row["command"], row["state"], row["phase"]) == (
        "loop",
        "unfinished",
        "after evaluate-0",
    )
    Path("runs/laptop/results.json").write_text('[{"success": 0.25}, {"success": 0.5}]')
    Path("runs/laptop/report.html").write_text("")
    (row,) = answer(run, "runs")
    assert (row["state"], row["best_success"], row["env"]) == ("finished", 0.5, HOUSEHOLD)


def test_an_empty_list_of_runs_is_a_list(run: Run) -> None:
    assert answer(run, "runs", ".") == []
    assert run("runs", ".")[0] == 0


def test_check_is_reached_with_its_options(refused: Refused) -> None:
    _, values = parse("check", [HOUSEHOLD, DATABASE, "--tasks", "3", "--json"])
    assert values == {"envs": [HOUSEHOLD, DATABASE], "tasks": 3, "json": True}
    assert not parse("check", [])[1]["envs"]
    assert "did you mean" in refused("check", "trialgym/Houshold-v0")
