"""Databases as values: building an image from a schema and rows, and reading one back.

Everything here runs in process, on connections of our own, under the same fences as the workers:
the truth of a task is found here and never where an agent's statements run.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from threading import local
from typing import Any

from sqlalchemy import MetaData, create_engine
from sqlalchemy.pool import StaticPool

from .database_backend import Image
from .sql_worker import Session, collate

Row = tuple[Any, ...]
_local = local()


def empty(metadata: MetaData) -> bytes:
    """Create the tables of a schema, without rows."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.create_collation("UCA", collate)
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    try:
        metadata.create_all(engine, checkfirst=False)
        return connection.serialize()
    finally:
        engine.dispose()
        connection.close()


def fill(schema: bytes, rows: Mapping[str, Iterable[Sequence[Any]]]) -> Image:
    """Put rows into the empty tables of a schema, in the order given."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.create_collation("UCA", collate)
        connection.deserialize(schema)
        connection.execute("BEGIN")
        for table, values in rows.items():
            values = list(values)
            if values:
                marks = ",".join("?" * len(values[0]))
                connection.executemany(f"INSERT INTO {quoted(table)} VALUES ({marks})", values)
        connection.execute("COMMIT")
        return Image.of(connection.serialize())
    finally:
        connection.close()


def quoted(name: str) -> str:
    """Write a name as SQL does, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """Write a value as SQL does."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, (int, float)):
        return repr(value)
    # NUL ends SQLite's reading of a statement, so it is written apart.
    parts = ("'" + part.replace("'", "''") + "'" for part in str(value).split("\0"))
    return "||char(0)||".join(parts)


def opened(image: Image) -> Session:
    """Open an image on this thread's own connection."""
    session: Session | None = _local.__dict__.get("session")
    if session is None:
        # Callers bring the images: kept ones would add up, thread by thread.
        session = _local.session = Session(cache_bytes=0)
    session.load(image.token, image.data)
    return session


def rows_of(image: Image, statement: str) -> list[Row]:
    """Give every row of a query of our own."""
    return opened(image).rows(statement)


def after(image: Image, statement: str) -> Image:
    """Give the database after a statement of our own.

    Raises:
        ValueError: the statement does not run.
    """
    ran, text, data = opened(image).execute(statement, 5.0)
    if not ran:
        raise ValueError(text)
    return Image.of(data) if data else image


def tables_of(image: Image) -> list[str]:
    """List the tables in the order of their creation."""
    found = rows_of(image, "SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in found]


def contents(image: Image) -> dict[str, list[Row]]:
    """Read every table, rows in the order they are stored."""
    return {table: rows_of(image, f"SELECT * FROM {quoted(table)}") for table in tables_of(image)}


@lru_cache(maxsize=128)
def digest(image: Image) -> str:
    """Hash what the tables hold: page layout and order of rows left out."""
    found = hashlib.blake2b(digest_size=16)
    for table, rows in sorted(contents(image).items()):
        found.update(repr((table, sorted(map(_canonical, rows)))).encode("utf-8", "replace"))
    return found.hexdigest()


def _canonical(row: Row) -> str:
    """Write a row so that a float's last bits do not matter."""
    return repr(tuple(round(v, 6) + 0.0 if isinstance(v, float) else v for v in row))
