"""Where the slots of a vector run: in this thread, in a pool of threads, in worker processes."""

import os
import pickle
import signal
import struct
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple, cast

from gymnasium.vector.utils import CloudpickleWrapper

from trialgym.core import TextEnv
from trialgym.errors import Fault, TrialgymError

Env = TextEnv[Any]
Factory = Callable[[], Env]
Call = tuple[int, tuple[Any, ...]]
"""A slot and the arguments of what it is asked."""


class SlotStep(NamedTuple):
    """What a step of one slot led to."""

    observation: str
    """After an episode's end and with autoreset, the first one of the next episode."""
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    final_observation: str | None = None
    """Last observation of the episode that this step ended, where the slot was reset."""
    final_info: dict[str, Any] | None = None


class Block:
    """Environments that one thread or process owns."""

    def __init__(self, envs: Sequence[Env], autoreset: bool) -> None:
        self.envs, self.autoreset = envs, autoreset
        self.verbs: dict[str, Callable[..., Any]] = {
            "reset": self._reset,
            "step": self._step,
            "call": self._call,
        }

    def run(self, verb: str, calls: Iterable[Call]) -> list[Any]:
        """Ask slots; an exception stands in the place of its slot's answer."""
        return [self.run_one(verb, call) for call in calls]

    def run_one(self, verb: str, call: Call) -> Any:
        slot, arguments = call
        try:
            return self.verbs[verb](self.envs[slot], *arguments)
        except Exception as error:
            return error

    @staticmethod
    def _reset(
        env: Env, seed: int | None, options: dict[str, Any] | None
    ) -> tuple[str, dict[str, Any]]:
        return env.reset(seed=seed, options=options)

    def _step(self, env: Env, action: str) -> tuple[Any, ...]:
        """Give the fields of a `SlotStep`, plain because they may have to be pickled."""
        observation, reward, terminated, truncated, info = env.step(action)
        if self.autoreset and (terminated or truncated):
            first, first_info = env.reset()
            return (
                first,
                float(reward),
                terminated,
                truncated,
                first_info,
                observation,
                info,
            )
        return observation, float(reward), terminated, truncated, info, None, None

    @staticmethod
    def _call(env: Env, name: str, arguments: tuple[Any, ...]) -> Any:
        found = env.get_wrapper_attr(name)
        return found(*arguments) if callable(found) else found

    def close(self) -> None:
        for env in self.envs:
            env.close()


class Backend(ABC):
    """Where the slots run."""

    @abstractmethod
    def run(self, verb: str, calls: Sequence[Call]) -> list[Any]:
        """Ask slots, each at most once; answers come in the order of the calls."""

    @abstractmethod
    def close(self) -> None: ...


class Inline(Backend):
    def __init__(self, factories: Sequence[Factory], autoreset: bool, workers: int) -> None:
        self.block = Block(_made(factories), autoreset)

    def run(self, verb: str, calls: Sequence[Call]) -> list[Any]:
        return self.block.run(verb, calls)

    def close(self) -> None:
        self.block.close()


class Threads(Backend):
    def __init__(self, factories: Sequence[Factory], autoreset: bool, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="slot")
        try:
            waiting = [self.pool.submit(factory) for factory in factories]
            envs = _made([future.result for future in waiting])
        except BaseException:
            self.pool.shutdown()
            raise
        self.block = Block(envs, autoreset)

    def run(self, verb: str, calls: Sequence[Call]) -> list[Any]:
        return list(self.pool.map(partial(self.block.run_one, verb), calls))

    def close(self) -> None:
        self.pool.shutdown()
        self.block.close()


def _made(factories: Iterable[Factory]) -> list[Env]:
    envs: list[Env] = []
    try:
        for factory in factories:
            envs.append(factory())
    except BaseException:
        Block(envs, False).close()
        raise
    return envs


class Processes(Backend):
    def __init__(self, factories: Sequence[Factory], autoreset: bool, workers: int) -> None:
        bounds = [index * len(factories) // workers for index in range(workers + 1)]
        blocks = list(pairwise(bounds))
        self.home = [
            (worker, slot - low)
            for worker, (low, high) in enumerate(blocks)
            for slot in range(low, high)
        ]
        self.workers = [Worker() for _ in blocks]
        for worker, (low, high) in zip(self.workers, blocks, strict=True):
            worker.ask(
                ([CloudpickleWrapper(factory) for factory in factories[low:high]], autoreset)
            )
        answers = [answer for worker in self.workers for answer in worker.answers(1)]
        try:
            raise_first(range(workers), answers, "worker")
        except Exception:
            self.close()
            raise

    def run(self, verb: str, calls: Sequence[Call]) -> list[Any]:
        parts: dict[int, list[Call]] = {}
        places: dict[int, list[int]] = {}
        for place, (slot, arguments) in enumerate(calls):
            worker, local = self.home[slot]
            parts.setdefault(worker, []).append((local, arguments))
            places.setdefault(worker, []).append(place)
        found: list[Any] = [None] * len(calls)
        try:
            for worker, part in parts.items():
                self.workers[worker].ask((verb, part))
            for worker, part in parts.items():
                answers = self.workers[worker].answers(len(part))
                for place, answer in zip(places[worker], answers, strict=True):
                    found[place] = answer
        except BaseException:
            # An interrupt: what the workers still send would be taken for the next call's answers.
            for worker in parts:
                self.workers[worker].end()
            raise
        return found

    def close(self) -> None:
        for worker in self.workers:
            worker.hang_up()
        for worker in self.workers:
            worker.end(patience=5.0)


class Worker:
    """A process that owns a block of slots. It ends when its input does, so never outlives us."""

    def __init__(self) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        # Not multiprocessing: that imports the caller's script again, guarded or not.
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": paths},
        )
        self.to = cast("BinaryIO", self.process.stdin)
        self.back = cast("BinaryIO", self.process.stdout)

    def ask(self, message: Any) -> None:
        parcel = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if not self.to.closed:
            with suppress(OSError):  # The worker is gone; `answers` tells.
                _write(self.to, parcel)

    def answers(self, count: int) -> list[Any]:
        """Read what was asked for; a `Fault` for each answer where the worker is gone."""
        if not self.back.closed:
            try:
                return cast("list[Any]", pickle.loads(_read(self.back)))
            except (EOFError, OSError):
                self.end(patience=1.0)
        fault = f"worker process {self.process.pid} ended with code {self.process.returncode}"
        return [Fault(f"{fault}; make a new vector") for _ in range(count)]

    def hang_up(self) -> None:
        with suppress(OSError):  # Bytes that a dead worker never took.
            self.to.close()

    def end(self, patience: float = 0.0) -> None:
        """Wait a while for the end of the process, then force it."""
        self.hang_up()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.back.close()


_SIZE = struct.Struct("<Q")


def _write(stream: BinaryIO, parcel: bytes) -> None:
    stream.write(_SIZE.pack(len(parcel)) + parcel)
    stream.flush()


def _read(stream: BinaryIO) -> bytes:
    head = stream.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError
    (size,) = _SIZE.unpack(head)
    parcel = stream.read(size)
    if len(parcel) < size:
        raise EOFError
    return parcel


def serve() -> None:
    """Be a worker: read calls from the input, write answers to the output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides what an interrupt means.
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What an environment prints must not reach the answers.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    block = Block((), False)
    try:
        factories, autoreset = pickle.loads(_read(source))
        block = Block([factory() for factory in factories], autoreset)
        _write(sink, pickle.dumps([None]))
    except Exception as error:
        _write(sink, pickle.dumps([_portable(error)]))
    try:
        while True:
            verb, calls = pickle.loads(_read(source))
            _write(sink, _packed(block.run(verb, calls)))
    except EOFError:
        block.close()


def _packed(answers: list[Any]) -> bytes:
    if not any(isinstance(answer, Exception) for answer in answers):
        try:
            return pickle.dumps(answers, pickle.HIGHEST_PROTOCOL)
        except Exception:
            pass  # Find out which one it is.
    return pickle.dumps([_portable(answer) for answer in answers])


def _portable(answer: Any) -> Any:
    try:
        pickle.loads(pickle.dumps(answer))
    except Exception as error:
        return TrialgymError(
            f"{type(answer).__name__} `{answer}` cannot leave its worker process: {error}"
        )
    return answer


def raise_first(owners: Iterable[int], answers: Sequence[Any], kind: str) -> None:
    """Raise the first exception among the answers, noting whose it is."""
    for owner, answer in zip(owners, answers, strict=True):
        if isinstance(answer, Exception):
            answer.add_note(f"in {kind} {owner} of the vector")
            raise answer


BACKENDS: dict[str, Callable[[Sequence[Factory], bool, int], Backend]] = {
    "inline": Inline,
    "thread": Threads,
    "process": Processes,
}
MOST_WORKERS = {"inline": 1, "thread": 64, "process": os.cpu_count() or 1}
