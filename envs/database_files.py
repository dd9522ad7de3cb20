"""AgentBench's own database files: JSON lines, one task a line, with every fault named."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Column, MetaData, Table, Text

from trialgym.core import Task, TaskSet
from trialgym.errors import BadFile

from .database_backend import Image
from .database_dialect import from_mysql
from .database_grading import database_hash
from .database_image import after, empty, fill

ENV = "trialgym/Database-v0"
MUTATIONS = ("INSERT", "UPDATE", "DELETE")
MOST_BYTES = 256 << 20
LONGEST_CELL = 50_000
"""Characters of a value: what a statement can still show, in any script."""


class AgentBenchTasks(TaskSet):
    """The tasks of a file such as `dbbench_dev.jsonl`, all in one split."""

    env = ENV

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.stem
        self.rows = tuple(_read(self.path))
        self.splits = {"all": len(self.rows)}

    def build(self, split: str, index: int) -> Task:
        row = self.rows[index]
        instruction = f"{row['description']}\n{row['add_description']}".strip()
        return Task(self.task_id(split, index), ENV, split, instruction, row["data"])


def image_of(data: Mapping[str, Any]) -> Image:
    """Build a file's tables: every column is text that compares as in MySQL."""
    metadata = MetaData()
    for table in data["tables"]:
        columns = [Column(name, Text(collation="UCA")) for name in table["columns"]]
        Table(table["name"], metadata, *columns)
    rows = {table["name"]: table["rows"] for table in data["tables"]}
    return fill(empty(metadata), rows)


def disagreements(tasks: AgentBenchTasks) -> list[str]:
    """List the tasks whose recorded hash is not that of their own gold statement's result.

    Both are accepted by the graders that use the hash; whoever compares scores wants to know.
    """
    found = []
    for task in tasks:
        recorded = task.data["answer_md5"]
        if recorded is None:
            continue
        if database_hash(after(image_of(task.data), from_mysql(task.data["gold"]))) != recorded:
            found.append(task.id)
    return found


# Reading.


def _read(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadFile(path, f"larger than {MOST_BYTES >> 20} MiB; split it")
        raw = path.read_bytes()
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error.strerror}; give a readable file") from error
    number, count = 0, 0
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.strip():
            count += 1
            yield _row(path, number, line)
    if not count:
        raise BadFile(path, "holds no task; wanted JSON lines, one task a line", line=number)


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadFile(path, f"not UTF-8 at byte {error.start}; convert it", line=number) from error
    except (ValueError, RecursionError) as error:
        raise BadFile(path, f"not JSON: {error}", line=number) from error
    return _Line(path, number, row).read()


class _Line:
    """One line of a file, read field by field."""

    def __init__(self, path: Path, number: int, row: Any) -> None:
        self.path, self.number = path, number
        if not isinstance(row, dict):
            raise BadFile(path, f"{type(row).__name__}; wanted a JSON object", line=number)
        self.row = row

    def wrong(self, field: str, problem: str) -> BadFile:
        return BadFile(self.path, problem, line=self.number, field=field)

    def get(self, field: str, kind: type, holder: Any = None, name: str = "") -> Any:
        """Take a field that must be there and of a kind."""
        holder, name = (self.row if holder is None else holder), name or field
        if not isinstance(holder, dict) or field not in holder:
            raise self.wrong(name, "is missing; every task of these files has it")
        value = holder[field]
        if not isinstance(value, kind):
            raise self.wrong(name, f"{type(value).__name__}; wanted {kind.__name__}")
        return value

    def read(self) -> dict[str, Any]:
        kind = self.kind()
        label = [str(value) for value in self.get("label", list)]
        if not label:
            raise self.wrong("label", "is empty; wanted the answer, or the gold statement")
        return {
            "description": self.get("description", str),
            "add_description": str(self.row.get("add_description") or ""),
            "data": {
                "source": "agentbench",
                "kind": kind,
                "grader": "v0.2",
                "dialect": "mysql",
                "tables": self.tables(),
                "gold": label[0] if kind in MUTATIONS else self.query(),
                "label": None if kind in MUTATIONS else label,
                "answer_md5": self.recorded() if kind in MUTATIONS else None,
                "evidence": str(self.row.get("evidence") or ""),
            },
        }

    def kind(self) -> str:
        kinds = self.get("type", list)
        if not kinds or not isinstance(kinds[0], str):
            raise self.wrong("type", 'wanted a list of one word, such as ["INSERT"]')
        return str(kinds[0])

    def query(self) -> str:
        query = self.row.get("sql")
        return str(query.get("query") or "") if isinstance(query, dict) else ""

    def recorded(self) -> str | None:
        value = self.row.get("answer_md5")
        if value is not None and not isinstance(value, str):
            raise self.wrong("answer_md5", f"{type(value).__name__}; wanted str")
        return value.strip("[]()', ") if value else None

    def tables(self) -> list[dict[str, Any]]:
        found = self.row.get("table")
        many = found if isinstance(found, list) else [self.get("table", dict)]
        tables = [self.table(table) for table in many]
        names = [table["name"].lower() for table in tables]
        if not names or len(set(names)) < len(names):
            raise self.wrong("table", "wanted tables of different names, at least one")
        return tables

    def table(self, table: Any) -> dict[str, Any]:
        name = self.get("table_name", str, table, "table.table_name")
        info = self.get("table_info", dict, table, "table.table_info")
        columns = [
            self.get("name", str, column, "table.table_info.columns.name") or f"column_{place}"
            for place, column in enumerate(
                self.get("columns", list, info, "table.table_info.columns"), start=1
            )
        ]
        if any(not text or "\0" in text for text in (name, *columns)):
            raise self.wrong("table", "wanted names of at least one character, without NUL")
        if name.lower().startswith("sqlite_"):
            raise self.wrong("table.table_name", "begins with `sqlite_`, which SQLite keeps")
        if not columns or len({column.lower() for column in columns}) < len(columns):
            raise self.wrong("table.table_info.columns", "wanted different names, at least one")
        rows = [self.cells(row, len(columns)) for row in self.get("rows", list, info, "table.rows")]
        return {"name": name, "columns": columns, "rows": rows}

    def cells(self, row: Any, width: int) -> list[str | None]:
        if not isinstance(row, list) or len(row) != width:
            raise self.wrong("table.table_info.rows", f"wanted lists of {width} values")
        if any(isinstance(cell, (list, dict)) for cell in row):
            raise self.wrong("table.table_info.rows", "wanted plain values, not lists or objects")
        if any(isinstance(cell, str) and len(cell) > LONGEST_CELL for cell in row):
            raise self.wrong("table.table_info.rows", f"wanted at most {LONGEST_CELL} characters")
        return [None if cell is None else str(cell) for cell in row]
