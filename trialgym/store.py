"""Where trajectories are kept: SQLite (write-ahead log) in a file, or PostgreSQL by URL.

A summary row and a compressed body a trajectory, so that tables of thousands of episodes list fast.
What `add` returned from is kept through a kill of the process at any moment.
"""

import fcntl
import json
import os
import platform
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sql
import sqlalchemy.event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError

from trialgym.errors import BadFile, BadInput, Fault, MissingExtra, RunConflict, StorageFull
from trialgym.records import Json, Trajectory, read_line

_META = sql.MetaData()
EPISODES = sql.Table(
    "trajectories",
    _META,
    sql.Column("run", sql.String(200), primary_key=True),
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("group", sql.String(200), nullable=False, index=True),
    sql.Column("env", sql.String(200), nullable=False),
    sql.Column("env_version", sql.String(40), nullable=False),
    sql.Column("task_id", sql.String(400), nullable=False),
    sql.Column("split", sql.String(200), nullable=False),
    sql.Column("sample", sql.Integer, nullable=False),
    sql.Column("policy", sql.String(400), nullable=False),
    sql.Column("iteration", sql.Integer, nullable=False),
    sql.Column("score", sql.Float, nullable=False),
    sql.Column("success", sql.Boolean, nullable=False),
    sql.Column("stop", sql.String(20), nullable=False),
    sql.Column("turns", sql.Integer, nullable=False),
    sql.Column("invalid_turns", sql.Integer, nullable=False),
)
BODIES = sql.Table(
    "bodies",
    _META,
    sql.Column("run", sql.String(200), primary_key=True),
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("body", sql.LargeBinary, nullable=False),
)
COLUMNS = tuple(column.name for column in EPISODES.columns)
PARQUET_ROWS = 1000
"""Trajectories that an export to Parquet holds in memory at once."""


class Store:
    """The trajectories of one run.

    Args:
        where: a SQLite file, or a SQLAlchemy URL such as `postgresql+psycopg://host/name`.
        run: name of the run; several runs may share a database.
        durable: survive a power cut too, at the price of a disk sync for each transaction.
    """

    def __init__(self, where: Path | str, *, run: str = "default", durable: bool = False) -> None:
        self.run = run
        url: str | sql.URL = str(where)
        if "://" not in str(where):
            Path(where).parent.mkdir(parents=True, exist_ok=True)
            url = sql.URL.create("sqlite", database=str(Path(where).absolute()))
        self.engine = _engine(url)
        if self._is_sqlite:
            sql.event.listen(self.engine, "connect", _pragmas("FULL" if durable else "NORMAL"))
        sql.event.listen(self.engine, "handle_error", _translate)
        try:
            with self.engine.begin() as connection:
                _create_tables(connection)
        except (Fault, sql.exc.DBAPIError) as error:
            raise BadInput(
                f"store `{self.engine.url}` cannot be opened ({error.__cause__}); wanted a SQLite "
                "file, a new one included, or the URL of a database that answers"
            ) from error

    def add(self, trajectories: Iterable[Trajectory]) -> None:
        """Keep trajectories, all or none; one that is there already stays, unless it was a fault.

        Raises:
            StorageFull: no space is left; what was added before is safe.
            Fault: the database does not answer any more.
        """
        # In one order everywhere: two processes that add the same ones wait, but never in a circle.
        chosen = [t for _, t in sorted({t.id: t for t in trajectories}.items())]
        if not chosen:
            return
        rows = [{"run": self.run, **_summary(trajectory)} for trajectory in chosen]
        bodies = [
            {"run": self.run, "id": trajectory.id, "body": pack(trajectory)}
            for trajectory in chosen
        ]
        insert = sqlite.insert if self._is_sqlite else postgresql.insert
        keys = ("run", "id")
        new = insert(EPISODES)
        new = new.on_conflict_do_update(
            index_elements=keys,
            set_={name: new.excluded[name] for name in COLUMNS},
            where=EPISODES.c.stop == "fault",
        )
        body = insert(BODIES)
        body = body.on_conflict_do_update(index_elements=keys, set_={"body": body.excluded.body})
        with self.engine.begin() as connection:
            written = set(connection.scalars(new.returning(EPISODES.c.id), rows))
            if written:
                connection.execute(body, [row for row in bodies if row["id"] in written])

    def summaries(self, group: str | None = None, **equal: Any) -> list[Json]:
        """List summary rows, in the order of task and sample; filters by equality of columns."""
        query = self._filtered(sql.select(EPISODES), group, equal)
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def done(self, group: str) -> set[str]:
        """Give the ids of a group's trajectories, faults left out: what need not run again."""
        query = sql.select(EPISODES.c.id).where(
            EPISODES.c.run == self.run, EPISODES.c.group == group, EPISODES.c.stop != "fault"
        )
        with self.engine.connect() as connection:
            return set(connection.scalars(query))

    def trajectories(self, group: str | None = None, **equal: Any) -> Iterator[Trajectory]:
        """Yield whole trajectories, in the order of task and sample."""
        joined = EPISODES.join(
            BODIES, (EPISODES.c.run == BODIES.c.run) & (EPISODES.c.id == BODIES.c.id)
        )
        query = self._filtered(sql.select(BODIES.c.body).select_from(joined), group, equal)
        with (
            self.engine.connect() as connection,
            connection.execution_options(yield_per=256).scalars(query) as bodies,
        ):
            for body in bodies:
                yield unpack(body)

    def groups(self) -> dict[str, int]:
        """Count the trajectories of each group."""
        query = sql.select(EPISODES.c.group, sql.func.count()).where(EPISODES.c.run == self.run)
        with self.engine.connect() as connection:
            rows = connection.execute(query.group_by(EPISODES.c.group).order_by(EPISODES.c.group))
            return {str(group): int(count) for group, count in rows}

    def runs(self) -> list[str]:
        """List every run in this database."""
        with self.engine.connect() as connection:
            return list(connection.scalars(sql.select(EPISODES.c.run).distinct().order_by("run")))

    def export(self, path: Path | str, group: str | None = None) -> int:
        """Write trajectories to a `.jsonl` or `.parquet` file; it appears whole or not at all.

        Returns:
            The number of trajectories written.
        """
        return write_file(Path(path), self.trajectories(group))

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def _filtered(
        self, query: sql.Select[Any], group: str | None, equal: dict[str, Any]
    ) -> sql.Select[Any]:
        unknown = sorted(set(equal) - set(COLUMNS))
        if unknown:
            raise BadInput(f"filter on {unknown}; wanted columns out of {', '.join(COLUMNS)}")
        query = query.where(EPISODES.c.run == self.run)
        wanted = equal if group is None else {**equal, "group": group}
        for name, value in wanted.items():
            query = query.where(EPISODES.c[name] == value)
        return query.order_by(EPISODES.c.group, EPISODES.c.task_id, EPISODES.c.sample)


def _engine(url: str | sql.URL) -> sql.Engine:
    wanted = "wanted a file or a database URL, of SQLite or PostgreSQL"
    try:
        made = sql.make_url(url)
        known = made.get_backend_name() in ("sqlite", "postgresql")
        engine = sql.create_engine(made) if known else None
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "postgres") from error
    except (sql.exc.ArgumentError, ValueError) as error:
        raise BadInput(f"store `{without_password(str(url))}`: {error}; {wanted}") from error
    if engine is None:
        raise BadInput(f"store `{made}`; {wanted}")
    return engine


def _translate(context: sql.ExceptionContext) -> None:
    """Raise an error of ours where not the statement but the database is at fault."""
    error = context.original_exception
    if _FULL.search(f"{error} {getattr(error, 'sqlite_errorname', '')}"):
        raise StorageFull(
            f"no space left for `{context.engine and context.engine.url}`; free some and run the "
            "same command again: what was stored before is safe"
        )
    if isinstance(context.sqlalchemy_exception, (OperationalError, InterfaceError)):
        raise Fault(
            f"the store fails ({error}); what was stored before is safe: mend it and run the same "
            "command again"
        )


def open_source(source: str) -> Store:
    """Open a store that is there, of a run directory, a SQLite file or a URL.

    Args:
        source: where; with `#RUN` at its end, which of several runs.

    Raises:
        BadFile: there is no such store.
        BadInput: no run has the name, or there are several and none is named.
    """
    where, _, run = (source, "", "") if Path(source).exists() else source.partition("#")
    if "://" not in where:
        path = Path(where)
        file = path / "trajectories.sqlite" if path.is_dir() else path
        if not file.is_file():
            raise BadFile(file, "no such store; wanted a run directory, a database file or its URL")
        where = str(file)
    store = Store(where)
    known = store.runs()
    if not run and len(known) < 2:
        store.run = known[0] if known else store.run
    elif run in known:
        store.run = run
    else:
        store.close()
        place, given = without_password(where), f"run `{run}`" if run else "several runs"
        raise BadInput(f"{given} in `{place}`; wanted `{place}#RUN` with one of {known}")
    return store


def read_trajectories(source: str, group: str | None = None) -> list[Trajectory]:
    """Read trajectories of a run directory, a database or an exported file."""
    if Path(source).suffix in (".jsonl", ".parquet"):
        return [one for one in read_file(source) if group in (None, one.group)]
    with open_source(source) as kept:
        return list(kept.trajectories(group))


def without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1@", url)


_FULL = re.compile("disk is full|No space left|SQLITE_IOERR_SHMSIZE")
"""What databases say on a full disk; the last is SQLite without room for its log's index."""


def pack(trajectory: Trajectory) -> bytes:
    text = json.dumps(trajectory.to_json(), ensure_ascii=False, separators=(",", ":"))
    return zlib.compress(text.encode("utf-8", "surrogatepass"), 1)


def unpack(body: bytes) -> Trajectory:
    return Trajectory.from_json(json.loads(zlib.decompress(body).decode("utf-8", "surrogatepass")))


def write_file(path: Path, trajectories: Iterable[Trajectory]) -> int:
    """Write trajectories as JSON lines, or as Parquet with the whole record in one column."""
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise BadInput(f"export to `{path}`; wanted a name that ends in {' or '.join(writers)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        count = writers[path.suffix](partial, trajectories)
        os.replace(partial, path)
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            raise StorageFull(f"no space left for `{path}`; free some and export again") from error
        raise
    finally:
        partial.unlink(missing_ok=True)
    return count


def read_file(path: Path | str) -> list[Trajectory]:
    """Read what `write_file` wrote.

    Raises:
        BadFile: names the line, and the field where one is missing or unknown.
    """
    path = Path(path)
    if not path.is_file():
        raise BadFile(path, "no such file; wanted trajectories as .jsonl or .parquet")
    lines = _parquet_lines(path) if path.suffix == ".parquet" else _text_lines(path)
    found = []
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str) or line.strip():
            found.append(read_line(path, number, line))
    return found


def _write_jsonl(path: Path, trajectories: Iterable[Trajectory]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for trajectory in trajectories:
            row = trajectory.to_json()
            try:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot carry
                file.write(json.dumps(row) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def _write_parquet(path: Path, trajectories: Iterable[Trajectory]) -> int:
    # One JSON column: an inferred struct would merge the fields of unlike rows (`datasets` shows
    # None in other rows' records), and this one reads back exactly.
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    columns = {column.name: kinds[column.type.python_type] for column in EPISODES.columns}
    schema = arrow.schema([*columns.items(), ("trajectory", arrow.string())])
    schema = schema.remove(schema.get_field_index("run"))
    rows = ({**_summary(t), "trajectory": json.dumps(t.to_json())} for t in trajectories)
    count = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(rows, PARQUET_ROWS)):
            writer.write_table(arrow.Table.from_pylist(batch, schema))
            count += len(batch)
    return count


def _parquet_lines(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    try:
        yield from parquet.read_table(path, columns=["trajectory"])["trajectory"].to_pylist()
    except (ArrowInvalid, KeyError, OSError) as error:
        raise BadFile(path, f"not a table with a column `trajectory` ({error})") from error


def _text_lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise BadFile(path, f"not UTF-8 ({error.reason} at byte {error.start})") from error


def _summary(trajectory: Trajectory) -> Json:
    return {
        "id": trajectory.id,
        "group": trajectory.group,
        "env": trajectory.env,
        "env_version": trajectory.env_version,
        "task_id": trajectory.task_id,
        "split": trajectory.split,
        "sample": trajectory.sample,
        "policy": trajectory.policy.name,
        "iteration": trajectory.policy.iteration,
        "score": trajectory.score,
        "success": trajectory.success,
        "stop": str(trajectory.stop),
        "turns": len(trajectory.turns),
        "invalid_turns": sum(not turn.valid for turn in trajectory.turns),
    }


def _pragmas(synchronous: str) -> Callable[[Any, Any], None]:
    def configure(connection: Any, _: Any) -> None:
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", f"synchronous={synchronous}"):
            connection.execute(f"PRAGMA {pragma}")

    return configure


def _create_tables(connection: sql.Connection) -> None:
    if connection.dialect.name == "postgresql":
        # There IF NOT EXISTS fails when two processes create at once; any fixed number will do.
        connection.execute(sql.text("SELECT pg_advisory_xact_lock(8239561)"))
    for table in _META.sorted_tables:
        connection.execute(sql.schema.CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(sql.schema.CreateIndex(index, if_not_exists=True))


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file that appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


_HELD: set[Path] = set()
"""Directories that this process has locked; the system's lock only holds between processes."""


@contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Hold a run directory; made if need be. The system frees the lock when the process dies.

    Raises:
        RunConflict: another process, or another thread of this one, holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory.resolve() / "run.lock"
    if path in _HELD:
        raise RunConflict(f"run directory `{directory}` is in use by this process; wait for it")
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise RunConflict(
                f"run directory `{directory}` is in use by {file.read(200).strip()}; "
                "wait for it, stop it, or give another directory"
            ) from error
        _HELD.add(path)
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            yield
        finally:
            _HELD.remove(path)


def check_config(directory: Path, config: Json) -> None:
    """Write a new run directory's `config.json`, or compare an older one's with `config`.

    Raises:
        RunConflict: they differ; the message names the fields.
    """
    path = directory / "config.json"
    config = json.loads(json.dumps(config, default=str))
    if not path.is_file():
        return write_json(path, config)
    try:
        there = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BadFile(path, f"not a run's configuration ({error})") from error
    names = [key for key in {**there, **config} if there.get(key) != config.get(key)]
    if names:
        told = ", ".join(f"`{key}` is {there.get(key)!r}, not {config.get(key)!r}" for key in names)
        raise RunConflict(
            f"run directory `{directory}` has another configuration: {told[:1500]}; "
            "give the same options again, or another directory"
        )
