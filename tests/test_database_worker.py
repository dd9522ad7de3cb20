"""The workers: what they refuse, that they always come back, and that none is left behind.

`TRIALGYM_HOSTILE=10000 pytest tests/test_database_worker.py -k hostile -m "" -s` sends as many
generated hostile statements, and prints the figures.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from trialgym import make
from trialgym.core import Task
from trialgym.envs import database_backend
from trialgym.envs.database_backend import Image, SqliteBackend
from trialgym.envs.database_domains import schema
from trialgym.envs.database_image import digest, fill
from trialgym.envs.database_tasks import rows_of_task
from trialgym.envs.sql_worker import PAGES, Session
from trialgym.errors import Fault

LIMIT = 0.1
CANARY = "canary-4b1d7e"


@pytest.fixture
def backend() -> Iterator[SqliteBackend]:
    backend = SqliteBackend()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def shop() -> Image:
    return fill(schema("shop"), rows_of_task("shop", "train", 0))


def workers() -> list[int]:
    found = database_backend._pool
    return [worker.process.pid for worker in (*found.idle, *found.busy)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_session_keeps_no_more_images_than_it_may() -> None:
    images = [fill(schema("shop"), rows_of_task("shop", "train", n)) for n in range(4)]
    session = Session(cache_bytes=0)
    for image in images:
        assert session.load(image.token, image.data)
    assert [session.load(image.token) for image in images] == [False, False, False, True]
    session.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ATTACH 'evil.db' AS e", "ATTACH"),
        ("VACUUM INTO 'evil.db'", "VACUUM INTO"),
        ("PRAGMA writable_schema = 1", "writable_schema"),
        ("PRAGMA database_list", "database_list"),
        ("SELECT load_extension('evil')", "load_extension"),
        ("SELECT readfile('/etc/passwd')", "readfile"),
        ("SELECT random()", "random"),
        ("SELECT last_insert_rowid()", "last_insert_rowid"),
        ("SELECT total_changes()", "total_changes"),
        ("SELECT fts3_tokenizer('simple')", "fts3_tokenizer"),
        ("SELECT printf('%.*c', 900000000, 'x')", "two digits"),
        ("SELECT printf('%900000000d', 1)", "two digits"),
        ("SELECT zeroblob(100000000)", "zeroblob"),
        ("SELECT hex(randomblob(100000000))", "randomblob"),
        ("CREATE TABLE evil (a)", "schema"),
        ("CREATE TEMP TABLE evil (a)", "schema"),
        ("CREATE TRIGGER e AFTER INSERT ON orders BEGIN SELECT 1; END", "CREATE"),
        ("DROP TABLE orders", "schema"),
        ("ALTER TABLE orders ADD COLUMN evil", "not available"),
        ("DELETE FROM sqlite_master", "sqlite_master"),
        ("BEGIN", "transaction"),
        ("SAVEPOINT s", "SAVEPOINT"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT * FROM sqlite_dbpage", "sqlite_dbpage"),
        ("SELECT * FROM json_each('[1]')", "virtual"),
        ("SELECT * FROM pragma_table_info('orders')", "virtual"),
        (
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT sum(x) FROM c",
            "stopped",
        ),
        ("SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e", "stopped"),
        ("SELECT group_concat(a.status) FROM orders a, orders b, orders c", "too long"),
        ("SELECT ?", "binding"),
        ("SELEC 1", "syntax"),
        ("SELECT " + "(" * 2000 + "1" + ")" * 2000, ""),
        ("SELECT " + "1+" * 5000 + "1", ""),
        (
            "INSERT INTO orders WITH RECURSIVE c(x) AS (SELECT 100 UNION ALL SELECT x+1 FROM c) "
            "SELECT x, 1, 1, 'open', 1, '2024-01-01' FROM c",
            "",
        ),
    ],
)
def test_a_statement_that_is_not_allowed_or_endless_says_so_and_changes_nothing(
    backend: SqliteBackend, shop: Image, statement: str, words: str
) -> None:
    result = backend.execute(shop, statement, LIMIT)
    assert not result.ran and result.image is None
    assert words in result.text and len(result.text) <= 900
    after = backend.execute(shop, "SELECT count(*) FROM orders", 5.0)
    assert after.text == f"[({len(rows_of_task('shop', 'train', 0)['orders'])},)]"


def test_what_agents_need_is_allowed(backend: SqliteBackend, shop: Image) -> None:
    for statement, text in {
        "SELECT date('subsec')": "2025-01-01",
        "SELECT date('now'), current_date, date(), strftime('%Y', 'now')": "2025-01-01",
        "SELECT printf('%.2f', 2.345), concat('a', 1), concat_ws('-', 'a', NULL, 2)": "'a-2'",
        "PRAGMA table_info(orders)": "customer_id",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 5) "
        "SELECT sum(x) FROM c": "[(15,)]",
        "SELECT rank() OVER (ORDER BY price) FROM products LIMIT 1": "[(1,)]",
    }.items():
        result = backend.execute(shop, statement, 5.0)
        assert result.ran and text in result.text, result


def test_results_are_cut_as_agentbench_cuts_them(backend: SqliteBackend, shop: Image) -> None:
    rows = rows_of_task("shop", "train", 0)["orders"]
    text = backend.execute(shop, "SELECT * FROM orders", 5.0).text
    assert text == str(rows)[:800] + "[TRUNCATED]"
    few = backend.execute(shop, "SELECT * FROM orders LIMIT 3", 5.0).text
    assert few == str(rows[:3])


def test_a_change_gives_a_new_value_and_leaves_the_old_one(
    backend: SqliteBackend, shop: Image
) -> None:
    first = backend.execute(shop, "DELETE FROM orders WHERE id = 1", 5.0).image
    second = backend.execute(shop, "DELETE FROM orders WHERE id = 2", 5.0).image
    assert first and second
    left = [
        backend.execute(i, "SELECT min(id) FROM orders", 5.0).text for i in (shop, first, second)
    ]
    assert left == ["[(1,)]", "[(2,)]", "[(1,)]"]
    both = [
        backend.execute(first, "DELETE FROM orders WHERE id = 2", 5.0).image,
        backend.execute(second, "DELETE FROM orders WHERE id = 1", 5.0).image,
    ]
    assert both[0] and both[1] and digest(both[0]) == digest(both[1]) != digest(shop)


def test_a_statement_that_fails_halfway_leaves_nothing(backend: SqliteBackend, shop: Image) -> None:
    half = (
        "INSERT OR FAIL INTO customers VALUES "
        "(900, 'a', 'b', 'c', 1, '2024-01-01'), (1, 'a', 'b', 'c', 1, 'd')"
    )
    assert not backend.execute(shop, half, 5.0).ran
    assert (
        backend.execute(shop, "SELECT count(*) FROM customers WHERE id = 900", 5.0).text == "[(0,)]"
    )


def test_a_step_that_sqlite_cannot_interrupt_ends_with_the_worker(
    backend: SqliteBackend, shop: Image
) -> None:
    zeros = f"replace(hex('{'p' * 9000}'), '7', '0000000000')"
    search = "instr(z || z, z || '1')"
    statement = f"SELECT {'+'.join([search] * 20)} FROM (SELECT {zeros} AS z LIMIT 1)"
    backend.execute(shop, "SELECT 1", 5.0)
    before, start = workers(), time.monotonic()
    result = backend.execute(shop, statement, LIMIT)
    assert not result.ran and "stopped" in result.text
    assert time.monotonic() - start < LIMIT + 0.5
    assert not set(workers()) & set(before) and not any(map(alive, before))
    assert backend.execute(shop, "SELECT 1", 5.0).text == "[(1,)]"


def test_a_worker_that_somebody_else_kills_is_replaced(backend: SqliteBackend, shop: Image) -> None:
    for _ in range(3):
        backend.execute(shop, "SELECT 1", 5.0)
        (pid,) = workers()
        os.kill(pid, signal.SIGKILL)
        assert backend.execute(shop, "SELECT 2", 5.0).text == "[(2,)]"


def test_a_worker_that_cannot_be_started_is_a_fault_and_no_score(
    backend: SqliteBackend, shop: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(Fault, match="cannot be started"):
        backend.execute(shop, "SELECT 1", 5.0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Fault, match="does not start"):
        backend.execute(shop, "SELECT 1", 5.0)


def test_no_process_is_left_when_the_last_environment_closes(shop: Image) -> None:
    first, second = SqliteBackend(), SqliteBackend()
    for backend in (first, second):
        backend.execute(shop, "SELECT 1", 5.0)
    left = workers()
    assert len(left) == 1
    first.close()
    assert all(map(alive, left))
    del second, backend
    assert not any(map(alive, left)) and workers() == []


def test_workers_end_when_their_process_is_killed() -> None:
    code = (
        "import time; from trialgym import make; from trialgym.envs import database_backend as b;"
        "e = make('trialgym/Database-v0'); e.reset(seed=0); e.step('SQL: SELECT 1');"
        "print(b._pool.idle[0].process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.kill()
    until = time.monotonic() + 10
    # An orphan that has ended may stay in the table until the system's first process looks.
    while time.monotonic() < until and _running(pid):
        time.sleep(0.02)
    assert not _running(pid)


def _running(pid: int) -> bool:
    try:
        return "(sql" in (text := Path(f"/proc/{pid}/stat").read_text()) or text.split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_forked_process_has_workers_of_its_own(backend: SqliteBackend, shop: Image) -> None:
    backend.execute(shop, "SELECT 1", 5.0)
    mine = workers()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        text = backend.execute(shop, "SELECT 5", 5.0).text
        os.write(write, json.dumps([text, workers()]).encode())
        database_backend._end_all()
        os._exit(0)
    os.waitpid(child, 0)
    text, theirs = json.loads(os.read(read, 1000))
    os.close(read)
    os.close(write)
    assert text == "[(5,)]" and theirs and not set(theirs) & set(mine)
    assert backend.execute(shop, "SELECT 6", 5.0).text == "[(6,)]" and workers() == mine


def test_a_backend_is_pickled_without_its_workers(backend: SqliteBackend, shop: Image) -> None:
    backend.execute(shop, "SELECT 1", 5.0)
    copy = pickle.loads(pickle.dumps(backend))
    assert copy.execute(shop, "SELECT 7", 5.0).text == "[(7,)]"
    copy.close()


# Generated hostile statements.

BOMBS = (
    "WITH RECURSIVE c(x) AS (SELECT {n} UNION ALL SELECT x+1 FROM c) SELECT {f}(x) FROM c",
    "SELECT {f}(*) FROM {t} a, {t} b, {t} c, {t} d, {t} e, {t} f",
    "SELECT a.* FROM {t} a, {t} b, {t} c, {t} d, {t} e ORDER BY a.id * e.id",
    "SELECT printf('%.{n}c', {n})",
    "SELECT printf('%.*c', {n}, 'x')",
    "SELECT {f}({g}({f}({g}('{s}'))))",
    "SELECT replace(replace(hex(hex('{s}')), '3', '{s}'), '{s}', hex('{s}'))",
    "SELECT group_concat(a.id || '{s}') FROM {t} a, {t} b, {t} c",
    "SELECT '{p}' LIKE '{p}'",
    "SELECT replace(hex('{p}'), '2', 'aaaaaaaa') GLOB '*a*a*a*a*a*a*a*a*a*a*a*ab'",
    "INSERT INTO {t} SELECT * FROM {t}",
    "INSERT INTO {t}(id) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) "
    "SELECT x FROM c",
    "SELECT {i}+{i}+{i}+{i}+{i}+{i} FROM (SELECT replace(hex('{z}'), '7', '00000000000') AS z)",
    "UPDATE {t} SET id = id + {n} WHERE id IN (SELECT a.id FROM {t} a, {t} b, {t} c)",
    "DELETE FROM {t} RETURNING *, (SELECT {f}(*) FROM {t} a, {t} b, {t} c, {t} d)",
    "ATTACH '{path}' AS e",
    "VACUUM INTO '{path}'",
    "PRAGMA {pragma} = {n}",
    "PRAGMA {pragma}('{path}')",
    "SELECT * FROM pragma_{pragma}",
    "SELECT load_extension('{path}')",
    "SELECT writefile('{path}', 'x'), readfile('{path}'), edit('{s}')",
    "CREATE {v} evil AS SELECT '{s}'",
    "CREATE VIRTUAL TABLE evil USING {m}('{path}')",
    "CREATE TABLE evil (a CHECK ({f}(a)), b AS ({g}('{s}')))",
    "SELECT * FROM {m}('{s}')",
    "SELECT label, gold, data FROM {t}; SELECT * FROM gold",
    "SELECT * FROM answers UNION SELECT sql FROM sqlite_temp_master UNION SELECT * FROM {t}",
    "SELECT {f}({n}), {g}({n}, {n}), {f}('{s}', '{s}', '{s}')",
    "SELECT {deep}",
    "SELECT * FROM {t} WHERE id IN ({many})",
    "EXPLAIN QUERY PLAN SELECT * FROM {t} a, {t} b WHERE {f}(a.id)",
    "/*!50000 DROP TABLE {t} */ DROP TABLE {t} -- {s}",
    "BEGIN EXCLUSIVE",
    "ROLLBACK",
    "REINDEX {t}",
    "ANALYZE",
)
WORDS = {
    "t": (
        "customers",
        "products",
        "orders",
        "sqlite_master",
        "sqlite_schema",
        "sqlite_dbpage",
        "c",
    ),
    "f": (
        "sum",
        "count",
        "max",
        "hex",
        "upper",
        "group_concat",
        "randomblob",
        "zeroblob",
        "quote",
        "length",
        "date",
        "json",
        "total_changes",
        "char",
        "sqlite_compileoption_get",
    ),
    "g": (
        "hex",
        "quote",
        "trim",
        "replace",
        "zeroblob",
        "fts3_tokenizer",
        "load_extension",
        "round",
        "strftime",
        "printf",
        "json_array",
        "likelihood",
        "concat_ws",
        "unhex",
    ),
    "n": ("0", "-1", "1", "99", "999999999", "9223372036854775807", "1e308", "NULL", "x'00'"),
    "s": (
        "x",
        "now",
        "%s%s%n",
        "a" * 3000,
        "\u202e",
        "\x01",
        "e\u0301" * 50,
        "''",
        "\\'",
        "\ud800",
    ),
    "p": ("%a" * 24 + "b", "a" * 5000, "_%" * 30, "%" * 49),
    "pragma": (
        "writable_schema",
        "journal_mode",
        "temp_store_directory",
        "database_list",
        "mmap_size",
        "table_info",
        "trusted_schema",
        "hard_heap_limit",
        "table_list",
        "max_page_count",
    ),
    "m": (
        "fts5",
        "rtree",
        "dbstat",
        "json_each",
        "json_tree",
        "csv",
        "generate_series",
        "bytecode",
    ),
    "i": ("instr(z || z, z || '1')", "instr(z, '{z}')", "length(z)"),
    "z": ("p" * 8000,),
    "v": ("TABLE", "TEMP TABLE", "VIEW", "TEMP VIEW"),
    "deep": ("(" * 500 + "1" + ")" * 500, "-" * 900 + "1", "1" + "+1" * 3000, "not " * 900 + "1"),
    "many": (",".join(map(str, range(3000))), "SELECT 1 " + "UNION SELECT 1 " * 100),
}


def hostile_statement(random: Random, path: Path) -> str:
    words = {key: random.choice(values) for key, values in WORDS.items()}
    text = random.choice(BOMBS).format(path=random.choice((path, "evil.db", "/evil.db")), **words)
    for _ in range(random.choice((0, 0, 1, 3))):
        place = random.randrange(len(text) + 1)
        piece = random.choice(
            ("'", '"', ";", "--", "(", ")", " ", "/*", "\0", "`", "*", "\U0001f642", "SELECT ")
        )
        text = text[:place] + piece + text[place + random.choice((0, 1, 7)) :]
    return text


def hostile_run(count: int, folder: Path) -> None:
    task = Task("database/train/000000", "trialgym/Database-v0", "train", "Count the orders.", {
        "source": "generated", "domain": "shop", "split": "train", "index": 0, "kind": "SELECT",
        "gold": f"SELECT '{CANARY}'", "label": [CANARY], "grader": "strict",
    })  # fmt: skip
    env = make("trialgym/Database-v0", statement_time=LIMIT, max_turns=10**6)
    env.reset(options={"task": task})
    clean, pristine, random = env.snapshot(), env.state_hash(), Random(7)
    env.step("SQL: SELECT 1")
    late, killed, slowest, started = 0, 0, 0.0, time.monotonic()
    before = workers()
    for _ in range(count):
        statement = hostile_statement(random, folder / "evil.db")
        start = time.monotonic()
        observation, *_ = env.step(f"SQL: {statement}")
        seconds = time.monotonic() - start
        slowest, late = max(slowest, seconds), late + (seconds > LIMIT + 0.5)
        assert CANARY not in observation and len(observation) < 1000, statement
        killed, before = killed + (workers() != before), workers()
        assert len(before) <= 1
        env.restore(clean)
    seconds = time.monotonic() - started
    assert env.state_hash() == pristine
    assert env.step("SQL: SELECT count(*) FROM orders")[4]["invalid"] is False
    assert list(folder.iterdir()) == [] and not Path("evil.db").exists()
    assert not Path("/evil.db").exists()
    assert env.step(f'Answer: ["{CANARY}"]')[1] == 1
    env.close()
    print(
        f"{count} statements, {seconds:.0f} s, slowest {slowest:.3f} s, "
        f"{late} over, {killed} killed"
    )
    assert late == 0 and workers() == []


def test_hostile_statements_leak_nothing_make_nothing_and_hold_nobody_up(tmp_path: Path) -> None:
    hostile_run(300, tmp_path)


@pytest.mark.slow
def test_thousands_of_hostile_statements_change_nothing_about_that(tmp_path: Path) -> None:
    hostile_run(int(os.environ.get("TRIALGYM_HOSTILE", "2000")), tmp_path)


def test_a_database_may_not_grow_without_end(backend: SqliteBackend, shop: Image) -> None:
    image, text = shop, ""
    grow = (
        "INSERT INTO products (name, category, price, stock) SELECT hex(a.name) || hex(b.name), "
        "'', 1, 1 FROM products a, products b LIMIT 60000"
    )
    for _ in range(8):
        result = backend.execute(image, grow, 5.0)
        image, text = result.image or image, result.text
    assert "MiB" in text and len(image.data) <= PAGES * 4096
