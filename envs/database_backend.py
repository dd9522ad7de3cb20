"""Where statements run: hardened worker processes that the environments of a process share.

A backend takes a database as a value and gives the next one, so any worker can serve any episode,
and a fork of an episode costs nothing. A worker keeps the images it has seen: going back to one
sends its sixteen-byte name only.
"""

import atexit
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, RLock
from time import monotonic
from typing import Protocol

from trialgym.errors import Fault

from .sql_worker import FAILED, READY, REPLY, REQUEST, UNKNOWN, token_of, too_long

GRACE = 0.25
"""Seconds past its limit after which a statement's worker is killed."""
START_SECONDS = 60.0
MOST_WORKERS = max(2, min(8, os.cpu_count() or 1))
MOST_BYTES = 32 << 20
"""Longest reply that a worker may send."""
INHERITED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""All that a worker sees of the environment: what the interpreter may need to start."""


@dataclass(frozen=True, slots=True)
class Image:
    """A database as a value: SQLite's own serialisation, named by its content."""

    token: bytes
    data: bytes = field(repr=False, compare=False)

    @classmethod
    def of(cls, data: bytes) -> "Image":
        return cls(token_of(data), data)


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement led to."""

    text: str
    ran: bool
    image: Image | None = None
    """The database after the statement, where it changed."""


class Backend(Protocol):
    """Runs statements on databases that are values; a server's backend keeps the same promise."""

    def execute(self, image: Image, statement: str, seconds: float) -> Result:
        """Run one statement of an agent on `image`, which stays what it is."""
        ...

    def close(self) -> None: ...


class Died(Exception):
    """The worker ended, or answered what no worker answers."""


class Late(Exception):
    """The worker did not answer in time."""


class Worker:
    """One worker process, held by the process that started it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.loaded = b""
        """Token of the database that the worker has open."""
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("sql_worker.py"))],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"TZ": "UTC"} | {k: os.environ[k] for k in INHERITED if k in os.environ},
            )
        except OSError as error:
            ours.close()
            raise Fault(f"the database worker cannot be started: {error}") from error
        finally:
            theirs.close()
        self.socket = ours
        self._deadline = monotonic() + START_SECONDS
        try:
            ready = self._reply()[0] == READY
        except (Died, Late):
            ready = False
        if not ready:
            self.end()
            raise Fault(f"the database worker does not start; try `{sys.executable} -I -S` by hand")

    def run(self, image: Image, statement: str, seconds: float) -> Result:
        """Run a statement; an empty one only loads the image.

        Raises:
            Died: the process ended.
            Late: no answer in time; the process is of no further use.
        """
        self._deadline = monotonic() + seconds + GRACE
        raw = statement.encode("utf-8", "replace")
        self._send(REQUEST.pack(image.token, seconds, len(raw), 0) + raw)
        kind, token, text, data = self._reply()
        if kind == UNKNOWN:
            self._send(REQUEST.pack(image.token, seconds, len(raw), len(image.data)) + raw)
            self._send(image.data)
            kind, token, text, data = self._reply()
        self.loaded = token
        return Result(text, kind != FAILED, Image(token, data) if data else None)

    def _send(self, data: bytes) -> None:
        self._wait()
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise Late from error
        except OSError as error:
            raise Died from error

    def _wait(self) -> None:
        left = self._deadline - monotonic()
        if left <= 0:
            raise Late
        self.socket.settimeout(left)

    def _reply(self) -> tuple[int, bytes, str, bytes]:
        kind, token, text_size, image_size = REPLY.unpack(self._read(REPLY.size))
        if kind > UNKNOWN or text_size + image_size > MOST_BYTES:
            raise Died
        text = self._read(text_size).decode("utf-8", "replace") if text_size else ""
        return kind, token, text, self._read(image_size) if image_size else b""

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            self._wait()
            try:
                part = self.socket.recv(size - len(parts))
            except TimeoutError as error:
                raise Late from error
            except OSError as error:
                raise Died from error
            if not part:
                raise Died
            parts += part
        return bytes(parts)

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self.socket.close()
        self.process.kill()
        self.process.wait()

    def abandon(self) -> None:
        """Let go of a worker that belongs to the process this one was forked from."""
        self.socket.close()
        self.process.returncode = 0


class Pool:
    """The workers of this process; no more of them than processors."""

    def __init__(self) -> None:
        # Reentrant: a finaliser may run while this very thread holds it.
        self.changed = Condition(RLock())
        self.idle: list[Worker] = []
        self.busy: set[Worker] = set()
        self.starting = 0
        self.members: weakref.WeakSet[SqliteBackend] = weakref.WeakSet()

    @contextmanager
    def borrow(self, token: bytes) -> Iterator[Worker]:
        """Lend a worker, if possible one that has the database open; a failure ends it."""
        worker = self._take(token)
        try:
            yield worker
        except BaseException:
            with self.changed:
                self.busy.discard(worker)
                self.changed.notify()
            worker.end()
            raise
        with self.changed:
            self.busy.discard(worker)
            self.idle.append(worker)
            self.changed.notify()
        self.sweep()

    def _take(self, token: bytes) -> Worker:
        with self.changed:
            while not self.idle and len(self.busy) + self.starting >= MOST_WORKERS:
                self.changed.wait()
            worker = self._idle_worker(token)
            if worker is not None:
                self.busy.add(worker)
                return worker
            self.starting += 1
        try:
            worker = Worker()
        finally:
            with self.changed:
                self.starting -= 1
                self.changed.notify()
        with self.changed:
            self.busy.add(worker)
        return worker

    def _idle_worker(self, token: bytes) -> Worker | None:
        while self.idle:
            places = (n for n, worker in enumerate(self.idle) if worker.loaded == token)
            worker = self.idle.pop(next(places, -1))
            if worker.process.poll() is None:
                return worker
            worker.end()
        return None

    def sweep(self) -> None:
        """End the idle workers once no environment is open."""
        with self.changed:
            if list(self.members):  # counts the living only, unlike the set itself
                return
            idle, self.idle = self.idle, []
        for worker in idle:
            worker.end()

    def abandon(self) -> None:
        for worker in (*self.idle, *self.busy):
            worker.abandon()


_pool = Pool()


def _end_all() -> None:
    _pool.members.clear()
    _pool.sweep()


def _after_fork() -> None:
    """Give the forked process a pool of its own; the workers stay with its parent."""
    global _pool
    _pool.abandon()
    _pool = Pool()


def _sweep() -> None:
    _pool.sweep()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_after_fork)


class SqliteBackend:
    """SQLite in memory, in the hardened workers of this process."""

    def __init__(self) -> None:
        weakref.finalize(self, _sweep)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def execute(self, image: Image, statement: str, seconds: float) -> Result:
        """Run one statement on `image`.

        Raises:
            Fault: workers cannot be started, or die whatever they are asked.
        """
        _pool.members.add(self)
        for _ in range(2):
            try:
                with _pool.borrow(image.token) as worker:
                    return worker.run(image, statement, seconds)
            except Late:
                return Result(too_long(seconds), False)
            except Died:
                continue
        # Twice dead: the statement's doing if a worker answers anything else, ours if none does.
        try:
            with _pool.borrow(image.token) as worker:
                worker.run(image, "SELECT 1", 10.0)
        except (Died, Late) as error:
            raise Fault("database workers end again and again; look at the memory left") from error
        return Result(
            "The database stopped at this statement and is as before; try another.", False
        )

    def close(self) -> None:
        """End the workers, unless another environment of this process still is open."""
        _pool.members.discard(self)
        _pool.sweep()
