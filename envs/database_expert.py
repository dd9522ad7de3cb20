"""The expert: looks at the schema, queries, then answers; repairs what was damaged."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from .database_actions import read_literal
from .database_backend import Image
from .database_image import Row, contents, digest, literal, quoted, rows_of, tables_of
from .database_truth import Truth

LOOK = "SELECT name, sql FROM sqlite_master"
LONGEST = 12_000
"""Characters of a repairing statement; longer repairs take several turns."""


def next_action(truth: Truth, now: Image, ran: Sequence[str], seen: str) -> str:
    """Give the action that leads on to success.

    Args:
        truth: what is right.
        now: the database as it is.
        ran: statements that were run, in the dialect of the task, with the last one last.
        seen: what the last one showed.
    """
    if truth.mutation:
        return _change(truth, now, ran)
    if not ran and now == truth.image:
        return f"SQL: {LOOK}"
    query = _query(truth)
    if now == truth.image and (not ran or ran[-1] != query):
        return f"SQL: {query}"
    return _answer(_observed(seen) if _derived(truth, now, ran) else None, truth)


def _derived(truth: Truth, now: Image, ran: Sequence[str]) -> bool:
    """Tell whether what is seen is the answer, and not merely the table that it stands in."""
    own = truth.task.data.get("label") is None
    return own and now == truth.image and bool(ran) and ran[-1] == _query(truth)


def _query(truth: Truth) -> str:
    if truth.task.data.get("label") is None:
        return truth.gold
    return f"SELECT * FROM {_name(truth, tables_of(truth.image)[0])}"


def _observed(seen: str) -> list[Any] | None:
    try:
        rows = read_literal(seen)
    except ValueError:
        return None
    return [row[0] for row in rows]


def _answer(values: Sequence[Any] | None, truth: Truth) -> str:
    words = truth.label if values is None else [str(value) for value in values]
    return f"Answer: {json.dumps(list(words), ensure_ascii=False)}"


# Mutations.


def _change(truth: Truth, now: Image, ran: Sequence[str]) -> str:
    if digest(now) == digest(truth.gold_image):
        return 'Answer: ["done"]'
    if digest(now) != digest(truth.image):
        return f"SQL: {next(_repairs(truth, now))}"
    if not ran:
        return f"SQL: {LOOK}"
    return f"SQL: {truth.task.data['gold']}"


def _repairs(truth: Truth, now: Image) -> Iterator[str]:
    """Yield statements towards the gold state: rows to take away first, then rows to add."""
    wanted = contents(truth.gold_image)
    for table, rows in wanted.items():
        extra = Counter(map(repr, _stored(now, table)))
        extra.subtract(map(repr, rows))
        if any(count > 0 for count in extra.values()):
            yield _deletion(truth, now, table, extra)
    for table, rows in wanted.items():
        missing = Counter(map(repr, rows))
        missing.subtract(map(repr, _stored(now, table)))
        if any(count > 0 for count in missing.values()):
            yield _insertion(truth, table, rows, missing)


def _stored(image: Image, table: str) -> list[Row]:
    return rows_of(image, f"SELECT * FROM {quoted(table)}")


def _deletion(truth: Truth, now: Image, table: str, extra: Counter[str]) -> str:
    columns = {row[1].lower() for row in rows_of(now, f"PRAGMA table_info({quoted(table)})")}
    key = next(name for name in ("rowid", "_rowid_", "oid") if name not in columns)
    keys: list[str] = []
    for row in rows_of(now, f"SELECT {key}, * FROM {quoted(table)}"):
        if extra[repr(row[1:])] > 0:
            extra[repr(row[1:])] -= 1
            keys.append(str(row[0]))
    return f"DELETE FROM {_name(truth, table)} WHERE {key} IN ({', '.join(keys[:1000])})"


def _insertion(truth: Truth, table: str, rows: Sequence[Row], missing: Counter[str]) -> str:
    parts: list[str] = []
    for row in rows:
        if missing[repr(row)] <= 0:
            continue
        missing[repr(row)] -= 1
        parts.append("(" + ", ".join(_literal(truth, value) for value in row) + ")")
        if sum(map(len, parts)) > LONGEST:
            break
    return f"INSERT INTO {_name(truth, table)} VALUES {', '.join(parts)}"


def _name(truth: Truth, name: str) -> str:
    return "`" + name.replace("`", "``") + "`" if truth.mysql else quoted(name)


def _literal(truth: Truth, value: Any) -> str:
    text = literal(value)
    return text.replace("\\", "\\\\") if truth.mysql else text
