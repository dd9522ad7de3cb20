"""A hardened SQLite session, and the process that serves one over its standard input.

Run by path in an isolated interpreter (`python -I -S sql_worker.py`), so it imports the standard
library only. The session also serves in process, for statements of our own. Three fences stand one
behind another: an allow-list of what a statement may name, limits inside SQLite with a clock that
interrupts it, and the limits of the process, which its parent kills when it does not answer.
"""

import hashlib
import os
import re
import resource
import sqlite3
import struct
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, process_time
from typing import Any

OBSERVED = 800
"""Characters of a result that are shown, as in AgentBench."""
CUT = "[TRUNCATED]"
READY, OK, FAILED, UNKNOWN = range(4)
"""Kinds of reply; UNKNOWN asks for the image that a token names."""
REQUEST = struct.Struct("<16sdII")
"""Token of the database, seconds, bytes of the statement, bytes of the image."""
REPLY = struct.Struct("<B16sII")
"""Kind, token of the database now, bytes of the text, bytes of the image where it changed."""

TODAY = "2025-01-01 00:00:00"
"""What `now` means: an episode must not depend on the day it runs."""
NOW = ("now", "subsec", "subsecond")
"""Words for the present moment; since 3.42 SQLite reads the latter two so."""
PAGES = 4096
"""Pages of 4 KiB that a database may grow to."""
CACHE_BYTES = 48 << 20
MEMORY_BYTES = 512 << 20
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 200_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 20,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 4,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 20,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
ALLOWED = """
abs avg ceil ceiling char coalesce concat concat_ws count cume_dist current_date
current_time current_timestamp date datetime dense_rank exp first_value floor format
glob group_concat hex if ifnull iif instr julianday lag last_value lead length like ln
log log10 log2 lower ltrim max min mod nth_value ntile nullif percent_rank pow power
printf quote rank replace round row_number rtrim sign sqrt strftime string_agg substr
substring sum time total trim trunc typeof unicode unixepoch upper
"""
FUNCTIONS = frozenset(ALLOWED.split())
PRAGMAS = frozenset(("foreign_key_list", "index_info", "index_list", "table_info", "table_list"))
# Tables of PRAGMAs and other virtual ones stay out: SQLite crashes when a database that one of them
# was opened on is exchanged for another.
CATALOGUE = frozenset(("sqlite_master", "sqlite_schema"))
READS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
WRITES = {
    sqlite3.SQLITE_INSERT: "INSERT",
    sqlite3.SQLITE_UPDATE: "UPDATE",
    sqlite3.SQLITE_DELETE: "DELETE",
}
VERBS = {
    sqlite3.SQLITE_ATTACH: "ATTACH and VACUUM INTO are",
    sqlite3.SQLITE_DETACH: "DETACH is",
    sqlite3.SQLITE_TRANSACTION: "a transaction (BEGIN, COMMIT, ROLLBACK) is",
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT is",
    sqlite3.SQLITE_ANALYZE: "ANALYZE is",
    sqlite3.SQLITE_REINDEX: "REINDEX is",
}
MEND = "use SELECT, INSERT, UPDATE or DELETE on the tables of the database"
SCHEMA = "the schema cannot be changed, and virtual tables cannot be opened"
OUT_OF_MEMORY = "The statement needs more memory than there is; ask for less."
MENDS = {
    "one statement at a time": "Only one statement at a time; send the others in further turns.",
    "too big": "A value or the statement is too long; ask for less.",
    "is full": f"The database may not grow beyond {PAGES * 4 >> 10} MiB; nothing was changed.",
    "too large": "The statement is too long; ask for less.",
}
FORMAT = re.compile(r"(?:[^%]|%[-+ 0,]{0,3}[0-9]{0,2}(?:\.[0-9]{1,2})?[a-zA-Z%])*")
"""Formats without `*` and with at most two digits: wider ones fill memory in a single step."""


def token_of(image: bytes) -> bytes:
    """Name an image by its content."""
    return hashlib.blake2b(image, digest_size=16).digest()


def too_long(seconds: float) -> str:
    """Say that the clock stopped a statement."""
    return (
        f"The statement was stopped: it ran longer than {seconds:g} s and changed nothing. "
        "Ask for less: join on keys, filter, avoid endless recursion."
    )


def fold(text: str) -> str:
    """Drop case and accents, as the default collation of MySQL does."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()


def collate(left: str, right: str) -> int:
    """Compare as MySQL's default collation does; the `UCA` of the image builder."""
    left, right = fold(left), fold(right)
    return (left > right) - (left < right)


class Refused(Exception):
    """A function's arguments are outside what is allowed."""


class Session:
    """One hardened connection, and the images it can go back to.

    Args:
        cache_bytes: of images kept; the last one always is.
    """

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        self.cache_bytes = cache_bytes
        self.loaded: bytes | None = None
        self._images: OrderedDict[bytes, bytes] = OrderedDict()
        self._tables: frozenset[str] = frozenset()
        self._trusted = True
        self._denied = ""
        self._deadline = 0.0
        self._plain = sqlite3.connect(":memory:", check_same_thread=False)
        self.connection = sqlite3.connect(
            ":memory:", isolation_level=None, cached_statements=0, check_same_thread=False
        )
        self._harden()

    def close(self) -> None:
        self.connection.close()
        self._plain.close()

    def _harden(self) -> None:
        connection = self.connection
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.execute("PRAGMA trusted_schema=OFF").close()
        connection.execute("PRAGMA temp_store=MEMORY").close()
        for limit, value in LIMITS.items():
            connection.setlimit(limit, value)
        connection.create_collation("UCA", collate)
        for name in ("date", "time", "datetime", "julianday", "unixepoch"):
            connection.create_function(name, -1, self._clock(name, 0), deterministic=True)
        connection.create_function("strftime", -1, self._clock("strftime", 1), deterministic=True)
        for name, day in (("date", TODAY[:10]), ("time", TODAY[11:]), ("timestamp", TODAY)):
            connection.create_function(f"current_{name}", 0, lambda day=day: day)
        for name in ("printf", "format"):
            connection.create_function(name, -1, self._format, deterministic=True)
        connection.create_function("concat", -1, _concat, deterministic=True)
        connection.create_function("concat_ws", -1, _concat_ws, deterministic=True)
        connection.create_function("if", 3, lambda test, yes, no: yes if test else no)
        modules = connection.execute("SELECT lower(name) FROM pragma_module_list").fetchall()
        self._modules = frozenset(name for (name,) in modules)
        connection.set_authorizer(self._authorize)
        connection.set_progress_handler(self._late, 1000)

    # What a statement may name.

    def _authorize(
        self,
        code: int,
        first: str | None,
        second: str | None,
        schema: str | None,
        inner: str | None,
    ) -> int:
        if self._trusted or code in READS:
            return sqlite3.SQLITE_OK
        problem = self._problem(code, (first or "").lower(), (second or "").lower())
        if not problem:
            return sqlite3.SQLITE_OK
        self._denied = self._denied or problem
        return sqlite3.SQLITE_DENY

    def _problem(self, code: int, first: str, second: str) -> str:
        if code == sqlite3.SQLITE_READ:
            inner = first in self._modules or first.startswith(("sqlite_", "pragma_"))
            known = first in CATALOGUE or not inner
            return "" if known else f"table `{first}` is not available; {MEND}"
        if code == sqlite3.SQLITE_FUNCTION:
            return "" if second in FUNCTIONS else f"function `{second}` is not available; {MEND}"
        if code in WRITES:
            return "" if first in self._tables else f"{SCHEMA}; {MEND}"
        if code == sqlite3.SQLITE_PRAGMA:
            known = first in PRAGMAS
            return "" if known else f"PRAGMA `{first}` is not available; {MEND}"
        return f"{VERBS.get(code, 'CREATE, ALTER and DROP are')} not available; {MEND}"

    def _late(self) -> bool:
        return not self._trusted and monotonic() > self._deadline

    def _clock(self, name: str, position: int) -> Callable[..., Any]:
        """Wrap a date function so that `now` is a fixed day."""

        def call(*arguments: Any) -> Any:
            values = list(arguments)
            if len(values) <= position:
                values = [*values[:position], *["%s"] * (position - len(values)), TODAY]
            value = values[position]
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            if text.split("\0")[0].strip().lower() in NOW:
                values[position] = TODAY
            return self._ask(name, values)

        return call

    def _format(self, *arguments: Any) -> Any:
        if arguments and not FORMAT.fullmatch(str(arguments[0])):
            self._denied = "printf takes widths and precisions of up to two digits; shorten them"
            raise Refused(self._denied)
        return self._ask("printf", list(arguments))

    def _ask(self, name: str, values: list[Any]) -> Any:
        marks = ",".join("?" * len(values))
        return self._plain.execute(f"SELECT {name}({marks})", values).fetchone()[0]

    # What a caller does.

    def load(self, token: bytes, image: bytes = b"") -> bool:
        """Make the database what `token` names; False where its image is not known."""
        if image:
            self._keep(token, image)
        if token == self.loaded:
            return True
        if token not in self._images:
            return False
        self._images.move_to_end(token)
        self.loaded, self._trusted = None, True
        self.connection.deserialize(self._images[token])
        self.connection.execute(f"PRAGMA max_page_count={PAGES}").close()
        names = self.connection.execute("SELECT lower(name) FROM sqlite_master WHERE type='table'")
        self._tables = frozenset(name for (name,) in names.fetchall())
        self.loaded = token
        return True

    def _keep(self, token: bytes, image: bytes) -> None:
        self._images[token] = image
        self._images.move_to_end(token)
        while len(self._images) > 1 and sum(map(len, self._images.values())) > self.cache_bytes:
            self._images.popitem(last=False)

    def execute(self, statement: str, seconds: float) -> tuple[bool, str, bytes]:
        """Run one statement on the loaded database.

        Returns:
            Whether it ran; what is seen of it; the new image where the database changed, else
            nothing. A statement that does not run changes nothing.
        """
        before, token = self.connection.total_changes, self.loaded
        try:
            text = self._guarded(statement, seconds, _render)
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError, OverflowError) as error:
            # `INSERT OR FAIL` keeps what it did before it failed: forget what is loaded.
            if self.connection.total_changes != before:
                self.loaded = None
            return False, self._explain(error, seconds) or OUT_OF_MEMORY, b""
        if self.connection.total_changes == before:
            return True, text, b""
        image = self.connection.serialize()
        self.loaded = token_of(image)
        if self.loaded == token:
            return True, text, b""
        self._keep(self.loaded, image)
        return True, text, image

    def rows(self, statement: str, seconds: float = 5.0) -> list[tuple[Any, ...]]:
        """Give every row of a statement of our own, under the same fences."""
        found: list[tuple[Any, ...]] = self._guarded(statement, seconds, _every)
        return found

    def _guarded(
        self, statement: str, seconds: float, read: Callable[[sqlite3.Cursor], Any]
    ) -> Any:
        self._denied = ""
        self._deadline = monotonic() + seconds
        self._trusted = False
        cursor = self.connection.cursor()
        try:
            cursor.execute(statement)
            return read(cursor)
        finally:
            cursor.close()
            self._trusted = True

    def _explain(self, error: Exception, seconds: float) -> str:
        if self._denied:
            return f"Not available: {self._denied}."
        text = str(error)
        if text == "interrupted" or monotonic() > self._deadline:
            return too_long(seconds)
        return next((mend for sign, mend in MENDS.items() if sign in text), text[:OBSERVED])


def _every(cursor: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    return cursor.fetchall()


def _render(cursor: sqlite3.Cursor) -> str:
    """Write rows as Python's list of tuples, and stop reading where the text is cut."""
    parts, length = [], 2
    for row in cursor:
        parts.append(repr(row))
        length += len(parts[-1]) + 2
        if length > OBSERVED + 4:
            break
    text = "[" + ", ".join(parts) + "]"
    return text if len(text) <= OBSERVED else text[:OBSERVED] + CUT


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _concat(*values: Any) -> str | None:
    return None if None in values else "".join(map(_text, values))


def _concat_ws(separator: Any, *values: Any) -> str | None:
    if separator is None:
        return None
    return _text(separator).join(_text(value) for value in values if value is not None)


# The process.


def _read(size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(0, min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _write(kind: int, token: bytes, text: str, image: bytes = b"") -> None:
    raw = text.encode("utf-8", "replace")
    data = memoryview(REPLY.pack(kind, token, len(raw), len(image)) + raw + image)
    while data:
        data = data[os.write(0, data) :]


def _fence() -> None:
    """Give up, for good, whatever the work does not need."""
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_NPROC, 0),
    ):
        most = resource.getrlimit(limit)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        with suppress(ValueError, OSError):  # some systems do not let the memory be limited
            resource.setrlimit(limit, (value, value))


def _allow_cpu(seconds: float) -> None:
    """Let the kernel end this process should its parent be gone and a statement not end."""
    ceiling = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(process_time() + seconds) + 3, ceiling))


def serve() -> None:
    """Answer requests until the other end is closed."""
    session = Session()
    _fence()
    _write(READY, bytes(16), "")
    while (header := _read(REQUEST.size)) is not None:
        token, seconds, statement_size, image_size = REQUEST.unpack(header)
        body = _read(statement_size + image_size)
        if body is None:
            return
        if not session.load(token, body[statement_size:]):
            _write(UNKNOWN, token, "")
            continue
        if not statement_size:
            _write(OK, token, "")
            continue
        _allow_cpu(seconds)
        statement = body[:statement_size].decode("utf-8", "replace")
        ran, text, image = session.execute(statement, seconds)
        _write(OK if ran else FAILED, session.loaded or token, text, image)


if __name__ == "__main__":
    serve()
