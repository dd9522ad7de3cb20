"""AgentBench's files: what is read, and that every fault is told with its line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from trialgym import make
from trialgym.envs.database_files import AgentBenchTasks, disagreements
from trialgym.errors import BadFile, BadInput

ROW: dict[str, Any] = {
    "description": "How old is Ann?",
    "add_description": "The table is people.",
    "label": ["31"],
    "type": ["other"],
    "table": {
        "table_name": "people",
        "table_info": {
            "columns": [{"name": "name", "type": "TEXT"}, {"name": "age", "type": "INT"}],
            "rows": [["Ann", "31"], ["Bob", "40"]],
        },
    },
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def changed(*place: str, to: Any = None) -> dict[str, Any]:
    """Copy the row with one field changed, or left out."""
    row = json.loads(json.dumps(ROW))
    holder = row
    for key in place[:-1]:
        holder = holder[key]
    if to is None:
        del holder[place[-1]]
    else:
        holder[place[-1]] = to
    return row


INFO = ("table", "table_info")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (changed("label"), "label"),
        (changed("label", to="31"), "label"),
        (changed("label", to=[]), "label"),
        (changed("description"), "description"),
        (changed("description", to=5), "description"),
        (changed("type"), "type"),
        (changed("type", to="INSERT"), "type"),
        (changed("type", to=[1]), "type"),
        (changed("table"), "table"),
        (changed("table", to=[]), "table"),
        (changed("table", to=[ROW["table"], ROW["table"]]), "table"),
        (changed("table", "table_name"), "table.table_name"),
        (changed("table", "table_name", to=""), "table"),
        (changed("table", "table_name", to="sqlite_x"), "table.table_name"),
        (changed(*INFO, "columns"), "table.table_info.columns"),
        (changed(*INFO, "columns", to=[]), "table.table_info.columns"),
        (changed(*INFO, "columns", to=[{"name": "a"}, {"name": "A"}]), "table.table_info.columns"),
        (changed(*INFO, "columns", to=[{}]), "table.table_info.columns.name"),
        (changed(*INFO, "rows", to=[["Ann"]]), "table.table_info.rows"),
        (changed(*INFO, "rows", to=[["Ann", [31]]]), "table.table_info.rows"),
        (changed(*INFO, "rows", to=[["Ann", "3" * 50_001]]), "table.table_info.rows"),
        ({**ROW, "type": ["INSERT"], "answer_md5": 5}, "answer_md5"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, row: Any, field: str) -> None:
    with pytest.raises(BadFile) as caught:
        AgentBenchTasks(write(tmp_path / "tasks.jsonl", ROW, row))
    assert (caught.value.line, caught.value.field) == (2, field)


@pytest.mark.parametrize(
    "row",
    [
        changed("table", "table_name", to="a\ud800"),
        changed(
            "table",
            "table_info",
            to={"columns": [{"name": f"c{n}"} for n in range(2500)], "rows": []},
        ),
    ],
    ids=["a name that is no text", "too many columns"],
)
def test_tables_that_cannot_be_made_are_the_tasks_error(tmp_path: Path, row: Any) -> None:
    env = make("trialgym/Database-v0", tasks=write(tmp_path / "tasks.jsonl", row))
    with pytest.raises(BadInput, match="tables of task `tasks/all/000000` cannot be made"):
        env.reset(seed=0), env.expert()
    env.close()


@pytest.mark.parametrize(
    ("raw", "line", "words"),
    [
        (json.dumps(ROW).encode() + b"\n\n{'a': 1}\n", 3, "not JSON"),
        (json.dumps(ROW).encode() + b"\n\xff\xfe", 2, "not UTF-8"),
        (b"", 1, "holds no task"),
        (b"\n \n", 3, "holds no task"),
        (b"[1]\n", 1, "list; wanted a JSON object"),
        (b"[" * 100_000, 1, "not JSON"),
    ],
)
def test_a_broken_file_is_told_with_its_line(
    tmp_path: Path, raw: bytes, line: int, words: str
) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(raw)
    with pytest.raises(BadFile, match=words) as caught:
        make("trialgym/Database-v0", tasks=path)
    assert caught.value.line == line


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"none\.jsonl"):
        make("trialgym/Database-v0", tasks=str(tmp_path / "none.jsonl"))


def test_ids_come_from_the_files_name(tmp_path: Path) -> None:
    tasks = AgentBenchTasks(write(tmp_path / "some_name.jsonl", ROW, ROW))
    assert tasks.ids("all") == ["some_name/all/000000", "some_name/all/000001"]
    assert tasks["some_name/all/000001"].instruction == "How old is Ann?\nThe table is people."


def test_several_tables_and_the_newer_files_fields_are_read(tmp_path: Path) -> None:
    other = {
        "table_name": "2020 pets",
        "table_info": {"columns": [{"name": ""}, {"name": "x`\"'"}], "rows": [[1, None]]},
    }
    row = {**ROW, "table": [ROW["table"], other], "evidence": "none", "user_sqlite": True}
    gold = "UPDATE people SET age = '32' WHERE name = 'ANN'"
    row |= {"type": ["UPDATE"], "label": [gold], "answer_md5": ""}
    path = write(tmp_path / "tasks.jsonl", row)
    assert disagreements(AgentBenchTasks(path)) == []
    env = make("trialgym/Database-v0", tasks=path)
    env.reset(options={"task": "tasks/all/000000"})
    assert env.step("SQL: SHOW TABLES")[0] == "[('people',), ('2020 pets',)]"
    assert env.step("SQL: SELECT * FROM `2020 pets`")[0] == "[('1', None)]"
    env.step(f"SQL: {gold}")
    assert env.step("Answer: []")[1] == 1
    env.close()


def test_a_recorded_hash_that_is_not_the_gold_statements_is_reported(tmp_path: Path) -> None:
    gold = "DELETE FROM people WHERE age = 40"
    row = {**ROW, "type": ["DELETE"], "label": [gold], "answer_md5": "[('00ff',)]"}
    path = write(tmp_path / "tasks.jsonl", ROW, row)
    assert disagreements(AgentBenchTasks(path)) == ["tasks/all/000001"]
    env = make("trialgym/Database-v0", tasks=path)
    env.reset(options={"task": "tasks/all/000001"})
    env.step(f"SQL: {gold}")
    assert env.step("Answer: []")[1] == 1
    env.close()


def test_a_gold_statement_that_does_not_run_is_the_files_fault(tmp_path: Path) -> None:
    row = {**ROW, "type": ["UPDATE"], "label": ["UPDATE nothing SET a = 1"]}
    env = make("trialgym/Database-v0", tasks=write(tmp_path / "tasks.jsonl", row))
    env.reset(options={"task": "tasks/all/000000"})
    with pytest.raises(BadInput, match="tasks/all/000000"):
        env.step("Answer: []")
    env.close()
