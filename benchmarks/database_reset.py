"""How fast a database goes back to its start: built anew, from its image, behind the worker.

`python -m trialgym.benchmarks.database_reset` takes ten tables of a thousand rows. Each way ends
with the same query, so that nothing is put off; `--json` prints one object. Times are medians of
wall time, since most of what is behind the worker happens in another process.
"""

import argparse
import json
import sqlite3
import statistics
import time
from collections.abc import Callable
from typing import Any

from trialgym.registry import locate

TABLES = 10
ROWS = 1000
ASK = "SELECT count(*) FROM t0"
TARGET_MS = 0.3
"""Most that going back may cost behind the worker."""


def create(connection: sqlite3.Connection) -> None:
    """Build the tables row by row."""
    for table in range(TABLES):
        connection.execute(f"CREATE TABLE t{table} (id INTEGER PRIMARY KEY, name TEXT, note TEXT)")
        rows = ((row, f"name {row}", "x" * 50) for row in range(ROWS))
        connection.executemany(f"INSERT INTO t{table} VALUES (?, ?, ?)", rows)
    connection.commit()


def created() -> None:
    connection = sqlite3.connect(":memory:")
    create(connection)
    connection.execute(ASK).fetchall()
    connection.close()


def median_ms(work: Callable[[], object], count: int, prepare: Callable[[], object]) -> float:
    """Time `work` alone; `prepare` runs before each time."""
    times = []
    for _ in range(count):
        prepare()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def measure(count: int) -> dict[str, Any]:
    """Time each way; the database is another one, or changed, before every time."""
    source, open_one = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    create(source)
    data = source.serialize()
    image_of = locate("trialgym.envs.database_backend:Image").of
    backend = locate("trialgym.envs.database_backend:SqliteBackend")()
    image = image_of(data)
    backend.execute(image, "", 10.0)
    changed = backend.execute(image, "DELETE FROM t0 WHERE id < 10", 10.0).image

    def deserialised() -> None:
        open_one.deserialize(data)
        open_one.execute(ASK).fetchall()

    def nothing() -> None:
        pass

    found = {
        "created anew": median_ms(created, max(count // 10, 3), nothing),
        "image, in process": median_ms(deserialised, count, nothing),
        "image, behind the worker": median_ms(
            lambda: backend.execute(image, "", 10.0),
            count,
            lambda: backend.execute(changed, "", 10.0),
        ),
        "image and query, behind the worker": median_ms(
            lambda: backend.execute(image, ASK, 10.0),
            count,
            lambda: backend.execute(changed, "", 10.0),
        ),
        "query alone, behind the worker": median_ms(
            lambda: backend.execute(image, ASK, 10.0), count, nothing
        ),
    }
    backend.close()
    source.close()
    open_one.close()
    return {"tables": TABLES, "rows": ROWS, "bytes": len(data), "target_ms": TARGET_MS, "ms": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=500, help="times each way is timed")
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args()
    found = measure(max(options.count, 3))
    if options.json:
        print(json.dumps(found))
        return
    print(f"{TABLES} tables of {ROWS} rows, an image of {found['bytes']:,} bytes")
    slowest = found["ms"]["created anew"]
    for name, milliseconds in found["ms"].items():
        print(f"{name:36}{milliseconds:9.3f} ms{slowest / milliseconds:9.0f} x")
    print(f"target behind the worker: {TARGET_MS} ms")


if __name__ == "__main__":
    main()
