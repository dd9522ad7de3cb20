"""Agents times tasks times samples become trajectories.

Every episode is a coroutine: a slow container never holds a batch, and the engine answers whatever
requests wait. Finished episodes are stored as they end; the same call after a kill runs only what
is missing. Infrastructure faults are retried and told apart from the agent's failures.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trialgym.core import ActionSpec, TextEnv, seed_of
from trialgym.errors import BadInput, Fault, NotReady, UnknownId
from trialgym.policy import Policy, Reply, Request
from trialgym.records import StopReason, Trajectory, Turn, episode_key
from trialgym.store import Store

FLUSH_EPISODES = 32
FLUSH_SECONDS = 0.5
"""Finished episodes are stored when so many wait, or the oldest has waited so long."""


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


@dataclass(slots=True)
class _Waiting:
    """Requests that wait for the policy, and the futures of their replies."""

    requests: list[Request] = field(default_factory=list)
    futures: list[asyncio.Future[Reply]] = field(default_factory=list)


class _Batcher:
    """Hands the policy all requests that wait, whenever it is free."""

    def __init__(self, policy: Policy, pool: ThreadPoolExecutor | None) -> None:
        self.policy, self.pool = policy, pool
        self.waiting, self.ready = _Waiting(), asyncio.Event()

    async def ask(self, request: Request) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.waiting.requests.append(request)
        self.waiting.futures.append(future)
        self.ready.set()
        return await future

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.ready.wait()
            # Episodes that were answered together step together: let them all ask first.
            await asyncio.sleep(0)
            batch, self.waiting = self.waiting, _Waiting()
            self.ready.clear()
            try:
                if self.pool is None:
                    replies = self.policy.act(batch.requests)
                else:
                    replies = await loop.run_in_executor(self.pool, self.policy.act, batch.requests)
                for future, reply in zip(batch.futures, replies, strict=True):
                    if not future.cancelled():
                        future.set_result(reply)
            except Exception as error:
                for future in batch.futures:
                    if not future.done():
                        future.set_exception(_PolicyFailed(error))


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
        self.stored_at = time.monotonic()

    async def run(self, work: Iterable[tuple[str, int]], first: TextEnv[Any]) -> None:
        queue = deque(work)
        count = min(self.limits.concurrency, len(queue))
        blocking = first.blocking
        pools = [ThreadPoolExecutor(n) if blocking else None for n in (max(count, 1), 1)]
        self.env_pool = pools[0]
        self.batcher = _Batcher(self.policy, pools[1])
        server = asyncio.create_task(self.batcher.serve())
        spare = [first]
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(self._worker(queue, spare.pop() if spare else None))
        finally:
            server.cancel()
            self.flush()
            for env in spare:
                env.close()
            for pool in pools:
                if pool is not None:
                    pool.shutdown(wait=False, cancel_futures=True)

    async def _worker(self, queue: deque[tuple[str, int]], env: TextEnv[Any] | None) -> None:
        try:
            while queue:
                task_id, sample = queue.popleft()
                for attempt in range(self.limits.retries + 1):
                    try:
                        env = env or self.factory()
                        trajectory = await self._episode(env, task_id, sample)
                        break
                    except (_PolicyFailed, BadInput, UnknownId, NotReady, asyncio.CancelledError):
                        raise
                    except Exception as error:
                        if env is not None:
                            env.close()
                            env = None
                        trajectory = self._fault(task_id, sample, error, attempt)
                self._keep(trajectory)
        finally:
            if env is not None:
                env.close()

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self.env_pool is None:
            return function(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.env_pool, lambda: function(*arguments))

    async def _episode(self, env: TextEnv[Any], task_id: str, sample: int) -> Trajectory:
        key = episode_key(self.group, self.env, task_id, self.policy.info, sample)
        base = self.policy.info.seed, self.group, task_id, sample
        observation, _ = await self._call(_reset, env, task_id)
        instruction, began = env.task.instruction, time.monotonic()
        turns: list[Turn] = []
        preamble = self.policy.preamble(instruction, env.grammar())
        stop, score, success = StopReason.MAX_TURNS, 0.0, False
        try:
            while True:
                before = await self._call(_look, env, self.list_candidates)
                spec, state_hash = before
                request = Request(
                    key, instruction, observation, turns, spec, seed_of(*base, len(turns)),
                    env.expert,
                )  # fmt: skip
                reply = await self.batcher.ask(request)
                if reply.out_of_context:
                    stop = StopReason.CONTEXT
                    break
                seen = observation
                observation, reward, done, truncated, info = await self._call(_act, env, reply)
                score, success = float(info["score"]), bool(info["success"])
                turns.append(
                    Turn(
                        observation=seen,
                        action=reply.action or "",
                        text=reply.text if reply.text != reply.action else "",
                        thought=reply.thought,
                        reward=float(reward),
                        valid=not info["invalid"],
                        state_hash=state_hash,
                        candidates=(spec.valid or ()) if self.keep_candidates else (),
                        log_prob=reply.log_prob,
                        prompt_ids=reply.prompt_ids,
                        token_ids=reply.token_ids,
                        token_log_probs=reply.token_log_probs,
                    )
                )
                if done:
                    stop = StopReason.SUCCESS if success else StopReason.FAILURE
                elif truncated or self._repeats(turns):
                    stop = StopReason.MAX_TURNS
                elif _over(began, self.limits.episode_seconds):
                    stop = StopReason.TIME
                else:
                    continue
                break
        finally:
            self.policy.forget(key)
        return Trajectory(
            env=self.env,
            task_id=task_id,
            split=env.task.split,
            instruction=instruction,
            turns=tuple(turns),
            final_observation=observation,
            score=score,
            success=success,
            stop=stop,
            policy=self.policy.info,
            sample=sample,
            group=self.group,
            env_version=env.version,
            preamble=preamble,
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
            env=self.env, task_id=task_id, split=task_id.split("/")[1], instruction="", turns=(),
            final_observation="", score=0.0, success=False, stop=StopReason.FAULT,
            policy=self.policy.info, sample=sample, group=self.group,
            error=f"{type(error).__name__}: {error} (attempt {attempt + 1})"[:2000],
        )  # fmt: skip

    def _keep(self, trajectory: Trajectory) -> None:
        self.finished.append(trajectory)
        self.unstored.append(trajectory)
        self.progress(1)
        waited = time.monotonic() - self.stored_at
        if len(self.unstored) >= FLUSH_EPISODES or waited >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what has finished."""
        if self.store is not None and self.unstored:
            self.store.add(self.unstored)
        self.unstored, self.stored_at = [], time.monotonic()


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
    if samples < 1 or limits.concurrency < 1:
        raise BadInput(
            f"samples {samples}, concurrency {limits.concurrency}; wanted at least 1 of each"
        )
    wanted = [(task_id, sample) for task_id in tasks for sample in range(samples)]
    keys = [episode_key(group, env, task_id, policy.info, sample) for task_id, sample in wanted]
    done = store.done(group) if store is not None else set()
    missing = [pair for pair, key in zip(wanted, keys, strict=True) if key not in done]
    known = {}
    if store is not None and len(missing) < len(wanted):
        here = set(keys)
        known = {t.id: t for t in store.trajectories(group) if t.id in here and not t.faulty}
    with _progress_bar(show_progress, group or "rollout", len(wanted), len(known)) as advance:
        collection = _Collection(
            policy, environment, env, group, limits, keep_candidates, store, advance
        )
        if missing:
            _run(collection, missing)
    known |= {trajectory.id: trajectory for trajectory in collection.finished}
    results = [known[key] for key in keys]
    faults = [trajectory for trajectory in results if trajectory.faulty]
    if len(results) >= 10 and len(faults) > limits.fault_rate * len(results):
        raise Fault(
            f"{len(faults)} of {len(results)} episodes failed for reasons outside the agent; "
            f"the first: {faults[0].error}; mend it and run the same command again"
        )
    return results


def _run(collection: _Collection, missing: list[tuple[str, int]]) -> None:
    first = collection.factory()
    for task_id, _ in missing:
        first.tasks.check(task_id)  # an unknown id is the caller's error, not the episode's fault
    try:
        asyncio.run(collection.run(missing, first))
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, _PolicyFailed):
            raise error.cause from None
        raise error from None


def _reset(env: TextEnv[Any], task_id: str) -> tuple[str, dict[str, Any]]:
    return env.reset(options={"task": task_id})


def _look(env: TextEnv[Any], candidates: bool) -> tuple[ActionSpec, str]:
    return (env.actions() if candidates else env.grammar()), env.state_hash()


def _act(env: TextEnv[Any], reply: Reply) -> tuple[str, Any, bool, bool, dict[str, Any]]:
    if reply.action is None:
        return env.reject(reply.problem)
    return env.step(reply.action)


def _over(began: float, budget: float | None) -> bool:
    return budget is not None and time.monotonic() - began > budget


@contextmanager
def _progress_bar(show: bool, label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not show) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
