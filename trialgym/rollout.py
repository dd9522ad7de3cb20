"""Agents times tasks times samples become trajectories.

Every episode is a coroutine: a slow container never holds a batch, and the engine answers whatever
requests wait. Finished episodes are stored as they end; the same call after a kill runs only what
is missing. Infrastructure faults are retried and told apart from the agent's failures.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple, SupportsFloat

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trialgym.core import ActionSpec, TextEnv, seed_of
from trialgym.errors import BadInput, Fault, NotReady, UnknownId
from trialgym.policy import Policy, Reply, Request
from trialgym.records import StopReason, Trajectory, Turn, episode_key
from trialgym.store import Store

FLUSH_EPISODES = 32
FLUSH_SECONDS = 0.5
"""Finished episodes are stored when so many wait, and every so often."""
GATHER_SHARE = 0.02
"""A batch waits for further requests as long as they come at least this often, as a share of the
time that the policy took for its last batch."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an episode, and a collection of them, may use."""

    concurrency: int = 64
    """Episodes under way at once; each has an environment of its own."""
    retries: int = 2
    """Further attempts after an infrastructure fault."""
    episode_seconds: float | None = None
    """Wall-clock budget of an episode, checked between turns; then it stops with `time`."""
    repeats: int | None = None
    """End an episode after so many identical actions in a row; None lets it run on."""
    fault_rate: float = 0.5
    """More faults than this share of at least ten episodes is an error: nothing was learnt."""


class _Batcher:
    """Hands the policy all requests that wait, whenever it is free.

    The policy is only ever called from one thread: `pool` has one worker, or there is none and the
    event loop's own thread serves.
    """

    def __init__(self, policy: Policy, pool: "_Threads | None", episodes: int) -> None:
        self.policy, self.pool, self.episodes = policy, pool, episodes
        self.waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self.ready = asyncio.Event()
        self.forgotten: list[str] = []
        self.seconds = 0.05  # a guess, until the first batch has been timed

    def ask(self, request: Request) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, future))
        self.ready.set()
        return future

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the policy; its exceptions come back marked as its own."""
        try:
            return await _in(self.pool, function, *arguments)
        except Fault:
            raise
        except Exception as error:
            raise _PolicyFailed(error) from error

    async def serve(self) -> None:
        while True:
            await self.ready.wait()
            await self._gather()
            batch, self.waiting = self.waiting, []
            self.ready.clear()
            began = time.monotonic()
            try:
                replies = await self.call(self._answer, [request for request, _ in batch])
                for (_, future), reply in zip(batch, replies, strict=True):
                    if not future.cancelled():
                        future.set_result(reply)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            self.seconds = time.monotonic() - began

    async def _gather(self) -> None:
        # Episodes that were answered together step together, in threads at slightly different
        # times: let them all ask. A moment without a new request ends the waiting for the rest.
        asked = 0
        while asked < len(self.waiting) < self.episodes:
            asked = len(self.waiting)
            await asyncio.sleep(self.seconds * GATHER_SHARE if self.pool else 0)

    def _answer(self, requests: Sequence[Request]) -> Sequence[Reply]:
        self.forget()
        replies = self.policy.act(requests)
        if len(replies) != len(requests):
            raise BadInput(
                f"{len(replies)} replies of policy `{self.policy.info.name}` to {len(requests)} "
                "requests; wanted one for each, in their order"
            )
        return replies

    def forget(self) -> None:
        """Let the policy forget the episodes that have ended."""
        while self.forgotten:
            self.policy.forget(self.forgotten.pop())


class _PolicyFailed(Exception):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


class _Collection:
    """One call of `rollout`."""

    def __init__(
        self,
        policy: Policy,
        factory: Callable[[], TextEnv[Any]],
        env: str,
        group: str,
        limits: Limits,
        keep_candidates: bool | None,
        store: Store | None,
        progress: Callable[[int], None],
    ) -> None:
        self.policy, self.factory, self.env, self.group = policy, factory, env, group
        self.limits, self.store, self.progress = limits, store, progress
        needs = policy.needs_candidates
        self.list_candidates = needs or bool(keep_candidates)
        self.keep_candidates = needs if keep_candidates is None else keep_candidates
        self.finished: list[Trajectory] = []
        self.unstored: list[Trajectory] = []

    async def run(self, work: Iterable[tuple[str, int]], first: TextEnv[Any]) -> None:
        queue = deque(work)
        count = min(self.limits.concurrency, len(queue))
        self.tasks = first.tasks
        # Twice as many threads as episodes: closing must not wait behind steps that hang.
        self.env_pool = _Threads(2 * count) if first.blocking else None
        policy_pool = _Threads(1) if first.blocking else None
        self.batcher = _Batcher(self.policy, policy_pool, count)
        with ExitStack() as stack:  # runs from the last to the first
            stack.callback(self.batcher.forget)
            if self.env_pool is not None and policy_pool is not None:
                stack.callback(policy_pool.close, wait=True)
                stack.callback(self.env_pool.close)
            stack.callback(self.flush)
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(f()) for f in (self.batcher.serve, self._flush_often)]
                async with asyncio.TaskGroup() as workers:
                    for number in range(count):
                        workers.create_task(self._worker(queue, None if number else first))
                for helper in helpers:
                    helper.cancel()

    async def _worker(self, queue: deque[tuple[str, int]], env: TextEnv[Any] | None) -> None:
        try:
            while queue:
                task_id, sample = queue.popleft()
                for attempt in range(self.limits.retries + 1):
                    try:
                        env = env or await _in(self.env_pool, self.factory)
                        trajectory = await self._episode(env, task_id, sample)
                        break
                    except (_PolicyFailed, BadInput, UnknownId, NotReady):
                        raise
                    except Exception as error:
                        trajectory = self._fault(task_id, sample, error, attempt)
                        await self._close(env)
                        env = None
                self._keep(trajectory)
        finally:
            self.batcher.episodes -= 1
            await self._close(env)

    async def _close(self, env: TextEnv[Any] | None) -> None:
        if env is not None:
            # A broken environment may not even close; that must not end the other episodes.
            with suppress(Exception):
                await _in(self.env_pool, env.close)

    async def _episode(self, env: TextEnv[Any], task_id: str, sample: int) -> Trajectory:
        policy, listed, budget = self.policy.info, self.list_candidates, self.limits.episode_seconds
        key = episode_key(self.group, self.env, task_id, policy, sample)
        seen = await _in(self.env_pool, _begin, env, task_id, listed)
        instruction, began = env.task.instruction, time.monotonic()
        preamble = await self.batcher.call(self.policy.preamble, instruction, env.grammar())
        turns: list[Turn] = []
        stop, score, success = StopReason.MAX_TURNS, 0.0, False
        try:
            while True:
                seed = seed_of(policy.seed, self.group, task_id, sample, len(turns))
                request = Request(
                    key, instruction, seen.observation, turns, seen.spec, seed, env.expert
                )
                reply = await self.batcher.ask(request)
                if reply.out_of_context:
                    stop = StopReason.CONTEXT
                    break
                before = seen
                seen, reward, done, truncated, info = await _in(
                    self.env_pool, _act, env, reply, listed
                )
                score, success = float(info["score"]), bool(info["success"])
                turns.append(self._turn(before, reply, reward, info))
                if done:
                    stop = StopReason.SUCCESS if success else StopReason.FAILURE
                elif truncated or self._repeats(turns):
                    stop = StopReason.MAX_TURNS
                elif budget is not None and time.monotonic() - began > budget:
                    stop = StopReason.TIME
                else:
                    continue
                break
        finally:
            self.batcher.forgotten.append(key)
        return Trajectory(
            env=self.env,
            task_id=task_id,
            split=env.task.split,
            instruction=instruction,
            turns=tuple(turns),
            final_observation=seen.observation,
            score=score,
            success=success,
            stop=stop,
            policy=policy,
            sample=sample,
            group=self.group,
            env_version=env.version,
            preamble=preamble,
        )

    def _turn(self, seen: "_Seen", reply: Reply, reward: Any, info: dict[str, Any]) -> Turn:
        return Turn(
            observation=seen.observation,
            action=reply.action or "",
            text=reply.text if reply.text != reply.action else "",
            thought=reply.thought,
            reward=float(reward),
            valid=not info["invalid"],
            state_hash=seen.state_hash,
            candidates=(seen.spec.valid or ()) if self.keep_candidates else (),
            log_prob=reply.log_prob,
            prompt_ids=reply.prompt_ids,
            token_ids=reply.token_ids,
            token_log_probs=reply.token_log_probs,
        )

    def _repeats(self, turns: Sequence[Turn]) -> bool:
        limit = self.limits.repeats
        return (
            limit is not None
            and len(turns) >= limit
            and len({turn.action for turn in turns[-limit:]}) == 1
        )

    def _fault(self, task_id: str, sample: int, error: Exception, attempt: int) -> Trajectory:
        return Trajectory(
            env=self.env, task_id=task_id, split=self.tasks.check(task_id)[0], instruction="",
            turns=(), final_observation="", score=0.0, success=False, stop=StopReason.FAULT,
            policy=self.policy.info, sample=sample, group=self.group,
            error=f"{type(error).__name__}: {error} (attempt {attempt + 1})"[:2000],
        )  # fmt: skip

    def _keep(self, trajectory: Trajectory) -> None:
        self.finished.append(trajectory)
        self.unstored.append(trajectory)
        self.progress(1)
        if len(self.unstored) >= FLUSH_EPISODES:
            self.flush()

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.flush()

    def flush(self) -> None:
        """Store what has finished."""
        if self.store is not None and self.unstored:
            self.store.add(self.unstored)
        self.unstored = []


def rollout(
    policy: Policy,
    environment: Callable[[], TextEnv[Any]],
    tasks: Sequence[str],
    *,
    env: str,
    samples: int = 1,
    group: str = "",
    store: Store | None = None,
    limits: Limits | None = None,
    keep_candidates: bool | None = None,
    show_progress: bool = False,
) -> list[Trajectory]:
    """Run every task `samples` times and give the trajectories, in the order of tasks and samples.

    Args:
        policy: who acts.
        environment: makes one environment; called once for each episode under way.
        tasks: task ids.
        env: registry id that the trajectories are kept under.
        samples: episodes of each task.
        group: what the episodes are for; part of their key.
        store: where finished episodes go as they end, and where earlier ones are taken from.
        limits: budgets and concurrency.
        keep_candidates: record the admissible actions of each turn; by default where the policy
            needs them.
        show_progress: draw a progress bar on standard error.

    Raises:
        BadInput: a task id that the environment does not know, or samples below 1.
        Fault: more faults than `limits.fault_rate` allows.
        StorageFull: the store's disk is full; what was stored before is safe.
    """
    limits = limits or Limits()
    check_limits(samples, limits)
    wanted = [(task_id, sample) for task_id in tasks for sample in range(samples)]
    keys = [episode_key(group, env, task_id, policy.info, sample) for task_id, sample in wanted]
    done = store.done(group) if store is not None else set()
    here = set(keys)
    # A task that is named twice is one episode.
    missing = {key: pair for pair, key in zip(wanted, keys, strict=True) if key not in done}
    known = {}
    if store is not None and len(missing) < len(here):
        known = {t.id: t for t in store.trajectories(group) if t.id in here and not t.faulty}
    with _progress_bar(show_progress, group or "rollout", len(here), len(known)) as advance:
        collection = _Collection(
            policy, environment, env, group, limits, keep_candidates, store, advance
        )
        if missing:
            _run(collection, list(missing.values()))
    known |= {trajectory.id: trajectory for trajectory in collection.finished}
    results = [known[key] for key in keys]
    faults = [trajectory for trajectory in results if trajectory.faulty]
    if len(results) >= 10 and len(faults) > limits.fault_rate * len(results):
        raise Fault(
            f"{len(faults)} of {len(results)} episodes failed for reasons outside the agent; "
            f"the first: {faults[0].error}; mend it and run the same command again"
        )
    return results


def check_limits(samples: int, limits: Limits) -> None:
    """Refuse numbers that no rollout can have.

    Raises:
        BadInput: fewer than one sample or episode at once, or a negative number of retries.
    """
    if samples < 1 or limits.concurrency < 1 or limits.retries < 0:
        raise BadInput(
            f"samples {samples}, concurrency {limits.concurrency}, retries {limits.retries}; "
            "wanted at least 1, 1 and 0"
        )


def _run(collection: _Collection, missing: list[tuple[str, int]]) -> None:
    first = collection.factory()
    try:
        for task_id, _ in missing:
            # An unknown id is the caller's error, not the episode's fault.
            first.tasks.check(task_id)
    except Exception:
        first.close()
        raise
    try:
        _run_loop(collection.run(missing, first))
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, _PolicyFailed):
            raise error.cause from None
        raise error from None


def _run_loop(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:  # a notebook's thread runs a loop of its own already
        thread.submit(asyncio.run, work).result()


async def _in(pool: "_Threads | None", function: Callable[..., Any], *given: Any) -> Any:
    return function(*given) if pool is None else await pool.run(function, *given)


class _Threads:
    """Threads that wait in the event loop's stead; what ends together comes back together.

    A third of the time that `run_in_executor` takes, which wakes the loop for every call.
    """

    def __init__(self, most: int) -> None:
        self.most, self.loop = most, asyncio.get_running_loop()
        self.calls: SimpleQueue[_Call | None] = SimpleQueue()
        self.threads: list[Thread] = []
        self.ended: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        self.lock, self.under_way = Lock(), 0

    def run(self, function: Callable[..., Any], *given: Any) -> asyncio.Future[Any]:
        future = self.loop.create_future()
        self.calls.put((future, function, given))
        self.under_way += 1
        if len(self.threads) < min(self.under_way, self.most):
            self.threads.append(Thread(target=self._work, daemon=True))
            self.threads[-1].start()
        return future

    def _work(self) -> None:
        while (call := self.calls.get()) is not None:
            future, function, given = call
            result = error = None
            try:
                result = None if future.cancelled() else function(*given)
            except BaseException as raised:
                # No future takes a StopIteration.
                error = RuntimeError(repr(raised)) if isinstance(raised, StopIteration) else raised
            with self.lock:
                self.ended.append((future, result, error))
                first = len(self.ended) == 1
            with suppress(RuntimeError):  # the loop is closed, for which nobody could wait
                if first:
                    self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self.lock:
            ended, self.ended = self.ended, []
        self.under_way -= len(ended)
        for future, result, error in ended:
            if not future.cancelled():
                future.set_result(result) if error is None else future.set_exception(error)

    def close(self, wait: bool = False) -> None:
        """Let the threads end after what they have begun."""
        for _ in self.threads:
            self.calls.put(None)
        for thread in self.threads if wait else ():
            thread.join()


_Call = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class _Seen(NamedTuple):
    """What the policy is shown."""

    observation: str
    spec: ActionSpec
    state_hash: str


_Step = tuple[_Seen, SupportsFloat, bool, bool, dict[str, Any]]


def _begin(env: TextEnv[Any], task_id: str, listed: bool) -> _Seen:
    return _see(env, env.reset(options={"task": task_id})[0], listed)


def _act(env: TextEnv[Any], reply: Reply, listed: bool) -> _Step:
    """Step and look at once: an environment that blocks costs one hop to its thread a turn."""
    result = env.reject(reply.problem) if reply.action is None else env.step(reply.action)
    observation, reward, done, truncated, info = result
    return _see(env, observation, listed and not (done or truncated)), reward, done, truncated, info


def _see(env: TextEnv[Any], observation: str, listed: bool) -> _Seen:
    return _Seen(observation, env.actions() if listed else env.grammar(), env.state_hash())


@contextmanager
def _progress_bar(show: bool, label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not show) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
