"""The store: SQLite and PostgreSQL alike, several writers, a full disk, and files."""

import os
import pwd
import random
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from worlds import Corridor, Houses

from trialgym.agents.scripted import Random
from trialgym.core import Task
from trialgym.errors import BadInput, Fault, MissingExtra, StorageFull
from trialgym.records import PolicyInfo, StopReason, Trajectory, Turn
from trialgym.rollout import Limits, rollout
from trialgym.store import BODIES, Store


def episode(index: int, *, stop: StopReason = StopReason.FAILURE, **fields: Any) -> Trajectory:
    turn = Turn("You stand in room 0.", "read", reward=0.5, valid=index % 2 == 0)
    row: dict[str, Any] = {
        "env": "tests/Corridor-v0", "task_id": f"corridor/train/{index:06d}", "split": "train",
        "instruction": "Walk.", "turns": (turn, turn), "final_observation": "Dark.", "score": 0.5,
        "success": False, "stop": stop, "policy": PolicyInfo("toy", iteration=index % 3),
    }  # fmt: skip
    return Trajectory(**(row | fields))


# Both databases


def postgres_binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    place = shutil.which("initdb") or (found and found[-1])
    return Path(place).resolve().parent if place else None


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Give the URL of a PostgreSQL server: the one named, or a private one on a Unix socket."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    named = os.environ.get("TRIALGYM_POSTGRES")
    if named:
        yield named
        return
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL: neither TRIALGYM_POSTGRES nor initdb is there")
    as_user: list[str] = []
    place = Path(tempfile.mkdtemp(prefix="trialgym-", dir="/tmp"))  # a socket's path must be short
    if os.getuid() == 0:
        try:
            os.chown(place, pwd.getpwnam("postgres").pw_uid, -1)
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user `postgres`")
        as_user = ["runuser", "-u", "postgres", "--"]

    def call(program: str, *arguments: str) -> None:
        command = [*as_user, str(binaries / program), "-D", str(place / "data"), *arguments]
        subprocess.run(command, check=True, cwd=place, stdout=subprocess.DEVNULL)

    try:
        call("initdb", "-U", "trialgym", "-A", "trust", "-E", "UTF8", "--no-sync")
        server = f"-c listen_addresses='' -k {place} -c fsync=off -c max_connections=30"
        call("pg_ctl", "-l", str(place / "log"), "-w", "start", "-o", server)
        try:
            yield f"postgresql+psycopg://trialgym@/postgres?host={place}"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give a place for a database that does not have our tables yet."""
    if request.param == "sqlite":
        yield str(tmp_path / "store.sqlite")
        return
    url = sql.make_url(request.getfixturevalue("postgres"))
    engine = sql.create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"trialgym_{os.getpid()}_{random.randrange(10**12)}"
    with engine.connect() as connection:
        connection.execute(sql.text(f"CREATE DATABASE {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sql.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def test_what_is_added_comes_back_in_the_order_of_groups_tasks_and_samples(where: str) -> None:
    rows = [episode(i, sample=s, group=g) for g in ("a", "b") for i in range(20) for s in (0, 1)]
    mixed = random.Random(1).sample(rows, len(rows))
    with Store(where) as store:
        store.add(mixed[:30])
        store.add(mixed[20:])
        assert list(store.trajectories()) == rows
        assert list(store.trajectories("b")) == rows[40:]
        assert list(store.trajectories("b", iteration=2)) == [
            row for row in rows[40:] if row.policy.iteration == 2
        ]
        assert store.groups() == {"a": 40, "b": 40}
        assert store.done("a") == {row.id for row in rows[:40]}
        assert store.done("c") == set()
    with Store(where) as store:
        assert list(store.trajectories()) == rows


def test_a_summary_says_what_the_record_says(where: str) -> None:
    one = episode(3, env_version="2", group="g", sample=4, score=0.25)
    with Store(where, run="mine") as store:
        store.add([one])
        assert store.summaries() == [
            {
                "run": "mine", "id": one.id, "group": "g", "env": "tests/Corridor-v0",
                "env_version": "2", "task_id": "corridor/train/000003", "split": "train",
                "sample": 4, "policy": "toy", "iteration": 0, "score": 0.25, "success": False,
                "stop": "failure", "turns": 2, "invalid_turns": 2,
            }
        ]  # fmt: skip
        assert store.summaries("other") == store.summaries(success=True) == []
        with pytest.raises(BadInput, match=r"filter on \['size'\]; wanted columns out of run, id"):
            store.summaries(size=3)


def test_what_is_there_stays_unless_it_was_a_fault(where: str) -> None:
    fault = StopReason.FAULT
    with Store(where) as store:
        store.add([episode(0, stop=fault, error="first"), episode(1), episode(2, stop=fault)])
        assert store.done("") == {episode(1).id}
        store.add([episode(0, stop=fault, error="second"), episode(1, score=0.9), episode(2)])
        store.add([episode(2, stop=fault), episode(1, stop=fault)])
        kept = {one.task_id[-1]: one for one in store.trajectories()}
    assert (kept["0"].error, kept["1"].score, kept["2"].stop) == ("second", 0.5, "failure")


def test_runs_share_a_database_and_nothing_else(where: str) -> None:
    with Store(where, run="a") as one, Store(where, run="b") as two:
        one.add([episode(0)])
        two.add([episode(0, score=0.75), episode(1)])
        assert [t.score for t in one.trajectories()] == [0.5]
        assert [t.score for t in two.trajectories()] == [0.75, 0.5]
        assert one.runs() == two.runs() == ["a", "b"]


def test_of_a_batch_that_fails_nothing_is_kept(where: str) -> None:
    with Store(where) as store:
        with pytest.raises(sql.exc.IntegrityError):
            store.add([episode(0), episode(1, score=None)])
        assert store.summaries() == [] and list(store.trajectories()) == []


def test_a_store_of_ten_thousand_lists_without_opening_a_body(where: str) -> None:
    rows = [episode(i, group=f"round {i % 2}", success=i % 5 == 0) for i in range(10_000)]
    with Store(where) as store:
        store.add(rows)
        with store.engine.begin() as connection:
            connection.execute(sql.update(BODIES).values(body=b"not compressed"))
        assert len(store.summaries()) == 10_000
        assert len(store.summaries("round 0", success=True)) == 1_000
        assert len(store.done("round 1")) == 5_000
        assert store.groups() == {"round 0": 5_000, "round 1": 5_000}
        with pytest.raises(zlib.error):
            next(store.trajectories())


@pytest.mark.slow
def test_a_batch_may_be_larger_than_one_statement_can_name(where: str) -> None:
    faults = [episode(i, stop=StopReason.FAULT) for i in range(70_000)]
    with Store(where) as store:
        store.add(faults)
        store.add(episode(i) for i in range(70_000))
        assert len(store.done("")) == 70_000


WRITER = """
import random, sys
sys.path.insert(0, {tests!r})
from test_store import episode
from trialgym.records import StopReason
from trialgym.store import Store

generator = random.Random({seed})
numbers = generator.sample(range(120), 120)
print("ready", flush=True)
sys.stdin.readline()
with Store({where!r}) as store:
    for start in range(0, 120, 6):
        rows = []
        for i in numbers[start : start + 6]:
            faulty = i % 3 != {seed}
            stop = StopReason.FAULT if faulty else StopReason.FAILURE
            rows.append(episode(i, stop=stop, error=faulty and "writer {seed}" or ""))
        store.add(rows)
"""


def test_several_processes_make_one_database_and_no_fault_replaces_a_result(where: str) -> None:
    """Each of three writers succeeds at a third of the episodes, and fails at the others."""
    tests = str(Path(__file__).parent)
    codes = [WRITER.format(tests=tests, where=where, seed=seed) for seed in range(3)]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for code in codes
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    with Store(where) as store:
        assert list(store.trajectories()) == [episode(i) for i in range(120)]


def test_a_rollout_goes_on_where_another_process_left_it(where: str) -> None:
    tasks = Houses().ids("train", 30)
    with Store(where) as store:
        half = rollout(Random(), Corridor, tasks[:15], env="e", samples=2, store=store)
    with Store(where) as store:
        full = rollout(Random(), Corridor, tasks, env="e", samples=2, store=store)
        assert full[:30] == half
        assert full == rollout(Random(), Corridor, tasks, env="e", samples=2)
        assert list(store.trajectories()) == full


# What a store refuses


def test_places_that_hold_no_database_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("These are no tables at all." * 50)
    for place in (tmp_path / "notes.txt", tmp_path, "postgresql+psycopg://u:secret@127.0.0.1:1/x"):
        with pytest.raises(BadInput, match="cannot be opened") as caught:
            Store(place)
        assert "secret" not in str(caught.value)
    for url in ("nosuch://u:secret@host/name", "mysql://u:secret@host/name", "sqlite://h:port/x"):
        with pytest.raises(BadInput, match="wanted a file or a database URL") as caught:
            Store(url)
        assert "secret" not in str(caught.value)
    with pytest.raises(MissingExtra, match=r"trialgym\[postgres\]"):
        Store("postgresql+pg8000://host/name")


@pytest.mark.parametrize("name", ["a?b=c.sqlite", "100% #1.sqlite", "ä 中/deep/er.sqlite"])
def test_any_file_name_holds_a_store(tmp_path: Path, name: str) -> None:
    with Store(tmp_path / name) as store:
        store.add([episode(0)])
    assert (tmp_path / name).is_file()
    with Store(tmp_path / name, durable=True) as store:
        assert len(store.done("")) == 1


def test_a_database_that_goes_away_is_a_fault(tmp_path: Path) -> None:
    with Store(tmp_path / "there" / "store.sqlite") as store:
        store.add([episode(0)])
        store.engine.dispose()
        shutil.rmtree(tmp_path / "there")
        with pytest.raises(Fault, match="run the same command again"):
            store.add([episode(1)])
        with pytest.raises(Fault, match="run the same command again"):
            store.done("")


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.getuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small file system takes root's rights")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(path: Path, leave: int) -> None:
    free = shutil.disk_usage(path.parent).free
    path.write_bytes(bytes(free - leave))


class Wordy(Corridor):
    def start(self, task: Task) -> tuple[Any, str]:
        room, words = super().start(task)
        return room, words + random.Random(task.id).randbytes(2_000).hex()


def test_a_full_disk_is_told_and_the_same_call_completes_when_there_is_room(
    small_disk: Path,
) -> None:
    tasks = Houses().ids("train", 300)
    filler, limits = small_disk / "filler", Limits(concurrency=8)
    fill(filler, leave=400_000)
    with Store(small_disk / "store.sqlite") as store:
        with pytest.raises(StorageFull, match=r"no space left .* what was stored before is safe"):
            rollout(Random(), Wordy, tasks, env="e", store=store, limits=limits)
        kept = store.done("")
        assert 0 < len(kept) < 300
        with pytest.raises(StorageFull):
            store.export(small_disk / "export.jsonl")
        assert not list(small_disk.glob("export*"))
    filler.unlink()
    with Store(small_disk / "store.sqlite") as store:
        assert store.done("") == kept
        found = rollout(Random(), Wordy, tasks, env="e", store=store, limits=limits)
        assert found == list(store.trajectories()) == rollout(Random(), Wordy, tasks, env="e")


def test_a_store_on_a_disk_without_a_byte_left_is_storage_full(small_disk: Path) -> None:
    with Store(small_disk / "store.sqlite") as store:
        store.add([episode(0)])
    fill(small_disk / "filler", leave=0)
    for name in ("store.sqlite", "new.sqlite"):
        with pytest.raises(StorageFull):
            Store(small_disk / name)
    (small_disk / "filler").unlink()
    with Store(small_disk / "store.sqlite") as store:
        assert list(store.trajectories()) == [episode(0)]
