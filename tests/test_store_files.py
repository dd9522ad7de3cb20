"""Trajectories in files: exact round trips, and malformed files named by line and field."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import episode

from trialgym.errors import BadFile, BadInput
from trialgym.records import Message, PolicyInfo, StopReason, Trajectory, Turn, summarise
from trialgym.store import Store, pack, read_file, unpack, write_file

HIGH, LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)


def has_no_pair(text: str) -> bool:
    """Two halves that stand in a row are one character in JSON; one alone must stay as it is."""
    return not any(ord(a) in HIGH and ord(b) in LOW for a, b in pairwise(text))


WORDS = st.text(st.characters(), max_size=12).filter(has_no_pair)
PLAIN = st.text("abc/é中🙂 ", max_size=8)
NUMBERS = st.floats(allow_nan=False, width=32)
TURNS = st.builds(
    Turn,
    observation=WORDS,
    action=WORDS,
    text=WORDS,
    thought=WORDS,
    reward=NUMBERS,
    valid=st.booleans(),
    candidates=st.lists(WORDS, max_size=3).map(tuple),
    log_prob=st.none() | NUMBERS,
    prompt_ids=st.lists(st.integers(0, 2**20), max_size=3).map(tuple),
    token_log_probs=st.lists(NUMBERS, max_size=3).map(tuple),
    loss=st.booleans(),
    judge=st.none() | st.dictionaries(WORDS, st.none() | NUMBERS | WORDS, max_size=2),
)
TRAJECTORIES = st.builds(
    Trajectory,
    env=PLAIN,
    task_id=PLAIN,
    split=PLAIN,
    instruction=WORDS,
    turns=st.lists(TURNS, max_size=3).map(tuple),
    final_observation=WORDS,
    score=st.floats(0, 1),
    success=st.booleans(),
    stop=st.sampled_from(StopReason),
    policy=st.builds(
        PolicyInfo, PLAIN, st.none() | PLAIN, st.integers(0, 99), st.floats(0, 2), st.integers(0)
    ),
    sample=st.integers(0, 2**31 - 1),
    group=PLAIN,
    preamble=st.lists(st.builds(Message, PLAIN, WORDS, st.booleans()), max_size=2).map(tuple),
    info=st.dictionaries(WORDS, st.integers() | st.lists(WORDS, max_size=2), max_size=2),
)


@given(st.lists(TRAJECTORIES, max_size=4))
@settings(max_examples=60)
def test_files_and_bodies_give_back_what_was_written(rows: list[Trajectory]) -> None:
    with tempfile.TemporaryDirectory() as place:
        for name in ("rows.jsonl", "rows.parquet"):
            assert write_file(Path(place, name), rows) == len(rows)
            assert read_file(Path(place, name)) == rows
        assert sorted(os.listdir(place)) == ["rows.jsonl", "rows.parquet"]
        Path(place, "rows.jsonl").read_bytes().decode("utf-8")
    assert [unpack(pack(row)) for row in rows] == rows


@given(st.lists(TRAJECTORIES, max_size=6, unique_by=lambda one: one.id))
@settings(max_examples=10)
def test_the_store_gives_back_what_was_added(rows: list[Trajectory]) -> None:
    with tempfile.TemporaryDirectory() as place, Store(Path(place, "store.sqlite")) as store:
        store.add(rows)
        assert {one.id: one for one in store.trajectories()} == {one.id: one for one in rows}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_export_holds_a_group_and_adds_to_another_store(tmp_path: Path, suffix: str) -> None:
    rows = [episode(i, group=group) for group in ("a", "b") for i in range(10)]
    with Store(tmp_path / "one.sqlite") as one, Store(tmp_path / "two.sqlite") as two:
        one.add(rows)
        assert one.export(tmp_path / f"out/b{suffix}", "b") == 10
        two.add(read_file(tmp_path / f"out/b{suffix}"))
        two.add(read_file(tmp_path / f"out/b{suffix}"))
        assert list(two.trajectories()) == rows[10:]
        assert summarise(two.trajectories()) == summarise(rows[10:])


def test_a_parquet_export_has_the_summary_in_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_file(tmp_path / "rows.parquet", [episode(i) for i in range(5)])
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.column_names[:3] == ["id", "group", "env"] and "trajectory" in table.column_names
    assert table["invalid_turns"].to_pylist() == [0, 2, 0, 2, 0]
    assert json.loads(table["trajectory"][1].as_py())["task_id"] == "corridor/train/000001"


def test_a_parquet_export_may_take_several_bunches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("trialgym.store.PARQUET_ROWS", 2)
    rows = [episode(i) for i in range(5)]
    assert write_file(tmp_path / "rows.parquet", iter(rows)) == 5
    assert read_file(tmp_path / "rows.parquet") == rows


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_file(path, [episode(0)])

    def breaks() -> Iterator[Trajectory]:
        yield episode(1)
        raise LookupError("the source ended early")

    with pytest.raises(LookupError):
        write_file(path, breaks())
    assert read_file(path) == [episode(0)]
    assert os.listdir(tmp_path) == ["rows.jsonl"]
    with pytest.raises(BadInput, match=r"wanted a name that ends in \.jsonl or \.parquet"):
        write_file(tmp_path / "rows.csv", [])


def spoil(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row | fields


MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], Any], str | None, str]] = {
    "a list": (lambda row: [row], None, "wanted a JSON object"),
    "a number": (lambda row: 3, None, "wanted a JSON object"),
    "no score": (lambda row: {k: v for k, v in row.items() if k != "score"}, "score", "missing"),
    "no turns": (lambda row: {k: v for k, v in row.items() if k != "turns"}, "turns", "missing"),
    "a word too many": (spoil(colour="red"), "colour", "unknown"),
    "a score in words": (spoil(score="high"), "score", "str `high`; wanted float"),
    "a score of true": (spoil(score=True), "score", "bool `True`; wanted float"),
    "success as a number": (spoil(success=1), "success", "int `1`; wanted bool"),
    "no id": (spoil(task_id=None), "task_id", "NoneType `None`; wanted str"),
    "turns in words": (spoil(turns="none"), "turns", "wanted list"),
    "a turn in words": (spoil(turns=["read"]), "turns[0]", "wanted a JSON object"),
    "a turn without action": (spoil(turns=[{"observation": ""}]), "turns[0].action", "missing"),
    "a turn with an odd reward": (
        lambda row: row | {"turns": [*row["turns"], row["turns"][0] | {"reward": []}]},
        "turns[2].reward",
        "list `[]`; wanted float",
    ),
    "a message without content": (
        spoil(preamble=[{"role": "system"}]),
        "preamble[0].content",
        "missing",
    ),
    "a policy in words": (spoil(policy="toy"), "policy", "wanted a JSON object"),
    "a policy without a name": (spoil(policy={"seed": 3}), "policy.name", "missing"),
    "a candidate that is a number": (
        lambda row: row | {"turns": [row["turns"][0] | {"candidates": ["look", 1]}]},
        "turns[0].candidates[1]",
        "int `1`; wanted str",
    ),
    "a token in words": (
        lambda row: row | {"turns": [row["turns"][0] | {"token_ids": ["a"]}]},
        "turns[0].token_ids[0]",
        "str `a`; wanted int",
    ),
    "a log-probability in words": (
        lambda row: row | {"turns": [row["turns"][0] | {"log_prob": "x"}]},
        "turns[0].log_prob",
        "str `x`; wanted float",
    ),
    "an unheard-of end": (spoil(stop="boredom"), None, "'boredom' is not a valid StopReason"),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_malformed_record_is_named_by_line_and_field(
    tmp_path: Path, name: str, suffix: str
) -> None:
    change, field, problem = MALFORMED[name]
    path = tmp_path / f"rows{suffix}"
    good = episode(0).to_json()
    lines = [json.dumps(good), json.dumps(change(good))]
    if suffix == ".jsonl":
        path.write_text("\n".join(lines))
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"trajectory": lines}), path)
    with pytest.raises(BadFile) as caught:
        read_file(path)
    assert (caught.value.line, caught.value.field) == (2, field)
    assert str(path) in str(caught.value) and problem in str(caught.value)


def test_a_torn_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_file(path, [episode(i) for i in range(3)])
    text = path.read_bytes()
    path.write_bytes(text + b"\n \n")  # empty lines say nothing
    assert len(read_file(path)) == 3
    path.write_bytes(text[:-40])
    with pytest.raises(BadFile, match="line 3: not JSON"):
        read_file(path)


def test_files_that_are_no_trajectories_at_all_are_refused(tmp_path: Path) -> None:
    path, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    with pytest.raises(BadFile, match=r"no such file; wanted trajectories as \.jsonl or \.parquet"):
        read_file(path)
    path.write_bytes(b'{"env": "\xff"}\n')
    with pytest.raises(BadFile, match="not UTF-8"):
        read_file(path)
    path.write_text("[" * 100_000)
    with pytest.raises(BadFile, match="line 1: not a trajectory"):
        read_file(path)
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"trajectory": [None, 3]}), table)
    with pytest.raises(BadFile, match="line 1: not a trajectory"):
        read_file(table)
    parquet.write_table(arrow.table({"words": ["a"]}), table)
    with pytest.raises(BadFile, match="not a table with a column `trajectory`"):
        read_file(table)
    write_file(table, [episode(0)])
    table.write_bytes(table.read_bytes()[:-30])
    with pytest.raises(BadFile, match="not a table"):
        read_file(table)


def test_a_record_without_its_later_fields_reads_with_their_defaults(tmp_path: Path) -> None:
    row = replace(episode(0), turns=()).to_json()
    old = {key: row[key] for key in list(row)[:10]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(old))
    assert read_file(tmp_path / "rows.jsonl") == [replace(episode(0), turns=())]
