"""Collecting trajectories: sameness, resuming, faults, budgets, and environments that block."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from worlds import Corridor, Houses, Room

from trialgym.agents.scripted import Expert, Null, Random
from trialgym.core import Outcome, Task
from trialgym.errors import BadInput, Fault, UnknownId
from trialgym.policy import Reply, Request
from trialgym.records import StopReason, Trajectory, summarise
from trialgym.rollout import Limits, rollout
from trialgym.store import Store

ENV = "tests/Corridor-v0"
TASKS = Houses().ids("train", 30)
NO_RETRY = Limits(retries=0)


class Waits(Corridor):
    """The corridor behind something outside."""

    blocking = True


def run(
    tasks: Sequence[str] = TASKS,
    policy: Any = None,
    world: Callable[[], Corridor] = Corridor,
    **options: Any,
) -> list[Trajectory]:
    return rollout(policy or Random(), world, tasks, env=ENV, **options)


class Counting(Random):
    """The random policy, with an account of who asked what."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.asked: Counter[str] = Counter()
        self.forgotten: Counter[str] = Counter()
        self.busy = threading.Lock()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        with self.alone():
            time.sleep(0.0005)
            self.batches.append(len(requests))
            self.asked.update(request.episode for request in requests)
            return super().act(requests)

    def forget(self, episode: str) -> None:
        with self.alone():
            self.forgotten[episode] += 1

    def alone(self) -> threading.Lock:
        assert not self.busy.locked(), "two threads are in the policy at once"
        return self.busy


# Sameness


@pytest.mark.parametrize("world", [Corridor, Waits])
@pytest.mark.parametrize("concurrency", [1, 3, 64])
def test_results_are_the_same_whatever_runs_beside_them(
    world: type[Corridor], concurrency: int
) -> None:
    alone = [one for task in TASKS for one in run([task], samples=2)]
    assert run(world=world, samples=2, limits=Limits(concurrency=concurrency)) == alone
    assert len({one.actions for one in alone}) > 5


def test_results_come_in_the_order_of_tasks_and_samples() -> None:
    mixed = random.Random(0).sample(TASKS, len(TASKS))
    found = run(mixed, samples=2)
    assert [(one.task_id, one.sample) for one in found] == [(t, s) for t in mixed for s in (0, 1)]
    assert {one.id: one for one in found} == {one.id: one for one in run(samples=2)}


def test_samples_of_a_task_differ_and_its_first_ones_stay() -> None:
    one, four = run(samples=1), run(samples=4)
    assert four[::4] == one
    assert any(len({t.actions for t in four[i : i + 4]}) > 1 for i in range(0, len(four), 4))


def test_groups_draw_different_numbers() -> None:
    assert [t.actions for t in run(group="a")] != [t.actions for t in run(group="b")]


def test_a_task_that_is_named_twice_is_one_episode() -> None:
    policy = Counting()
    first, second = run([TASKS[0], TASKS[0]], policy)
    assert first is second
    assert policy.asked == {first.id: len(first.turns)}


def test_rollout_runs_inside_a_running_event_loop() -> None:
    async def notebook() -> list[Trajectory]:
        return run()

    assert asyncio.run(notebook()) == run()


# The record


def test_the_expert_succeeds_and_the_record_says_what_happened() -> None:
    (one,) = run(TASKS[:1], Expert(), group="clone")
    task = Houses()[TASKS[0]]
    assert (one.env, one.task_id, one.split, one.group) == (ENV, TASKS[0], "train", "clone")
    assert (one.score, one.success, one.stop) == (1.0, True, StopReason.SUCCESS)
    assert one.instruction == task.instruction
    assert one.actions == tuple(f"take {colour}" for colour in task.data["doors"])
    seen = [turn.observation for turn in one.turns]
    assert seen[1:] == ["You stand in room 1.", "You stand in room 2."]
    assert one.final_observation == "You are out."
    assert sum(turn.reward for turn in one.turns) == pytest.approx(1.0)
    world = Corridor()
    world.reset(options={"task": TASKS[0]})
    for turn in one.turns:
        assert turn.state_hash == world.state_hash()
        world.step(turn.action)


def test_candidates_are_kept_when_the_policy_needs_them_or_the_caller_asks() -> None:
    assert run(TASKS[:1])[0].turns[0].candidates == Corridor().admissible(Room(("red",)))
    assert run(TASKS[:1], keep_candidates=False)[0].turns[0].candidates == ()
    assert run(TASKS[:1], Expert())[0].turns[0].candidates == ()
    assert len(run(TASKS[:1], Expert(), keep_candidates=True)[0].turns[0].candidates) == 6


def test_a_reply_without_an_action_costs_a_turn_and_says_why() -> None:
    class Mumbles(Null):
        def act(self, requests: Sequence[Request]) -> list[Reply]:
            return [Reply(None, "hm", problem="Write `Action:`.") for _ in requests]

    (one,) = run(TASKS[:1], Mumbles())
    assert len(one.turns) == 8
    assert {(turn.text, turn.action, turn.valid) for turn in one.turns} == {("hm", "", False)}
    assert one.turns[1].observation == one.final_observation == "Write `Action:`."


@pytest.mark.parametrize("concurrency", [1, 7, 30])
def test_a_batch_holds_every_episode_that_waits(concurrency: int) -> None:
    policy = Counting()
    found = run(policy=policy, limits=Limits(concurrency=concurrency))
    assert policy.batches[0] == max(policy.batches) == concurrency
    assert sum(policy.batches) == sum(len(one.turns) for one in found)


class Uneven(Waits):
    """Some houses take longer than others, so that episodes end while the policy is at work."""

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        time.sleep(self.task.index % 5 * 0.001)
        return super().act(state, action)


@pytest.mark.parametrize("world", [Corridor, Uneven])
def test_every_episode_is_forgotten_once_and_by_one_thread_at_a_time(
    world: type[Corridor],
) -> None:
    policy = Counting()
    found = run(policy=policy, world=world, samples=2, limits=Limits(concurrency=8))
    assert policy.forgotten == dict.fromkeys((one.id for one in found), 1)


def test_progress_is_drawn_on_standard_error_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(group="explore", show_progress=True)
    told = capsys.readouterr()
    assert "explore" in told.err and "30/30" in told.err and not told.out
    run(group="explore")
    assert capsys.readouterr() == ("", "")


# Budgets


def test_an_episode_ends_when_its_time_is_over() -> None:
    class Slow(Corridor):
        def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
            time.sleep(0.002)
            return super().act(state, action)

    (one,) = run(TASKS[:1], Null(), Slow, limits=Limits(episode_seconds=0.001))
    assert (one.stop, len(one.turns)) == (StopReason.TIME, 1)


def test_an_episode_ends_after_as_many_equal_actions_as_allowed() -> None:
    assert [len(t.turns) for t in run(TASKS[:1], Null(), limits=Limits(repeats=3))] == [3]
    assert [len(t.turns) for t in run(TASKS[:1], Null())] == [8]
    winners = run(policy=Expert(), limits=Limits(repeats=4))
    assert all(one.success for one in winners)


def test_a_full_context_ends_the_episode_before_the_environment_is_touched() -> None:
    class Short(Expert):
        def act(self, requests: Sequence[Request]) -> list[Reply]:
            full = Reply("take black", out_of_context=True)
            return [full if len(r.turns) == 2 else Reply(self.reply(r)) for r in requests]

    policy = Short()
    (one,) = run(TASKS[:1], policy)
    assert (one.stop, one.success, len(one.turns)) == (StopReason.CONTEXT, False, 2)
    assert one.score == pytest.approx(2 / 3)
    assert one.final_observation == "You stand in room 2."


# Faults


class Broken(Corridor):
    """Fails as its class says; counts what is open."""

    error: Exception = Fault("the worker died")
    fails: Callable[[str, str, int], bool] = lambda place, task, attempt: False
    attempts: Counter[tuple[str, str]]
    open: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.may_fail("make", "")
        type(self).open += 1

    def may_fail(self, place: str, task: str) -> None:
        kind = type(self)
        kind.attempts[place, task] += 1
        if kind.fails(place, task, kind.attempts[place, task]):
            raise kind.error

    def start(self, task: Task) -> tuple[Room, str]:
        self.may_fail("reset", task.id)
        return super().start(task)

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        self.may_fail("step", self.task.id)
        return super().act(state, action)

    def close(self) -> None:
        type(self).open -= 1


def broken(fails: Callable[[str, str, int], bool], **attributes: Any) -> type[Broken]:
    rows = {"fails": staticmethod(fails), "attempts": Counter(), "open": 0}
    return type("Broken", (Broken,), rows | attributes)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("place", ["reset", "step"])
@pytest.mark.parametrize("error", [Fault("gone"), OSError("gone"), StopIteration("gone")])
def test_an_environment_that_fails_at_first_is_tried_again(
    error: Exception, place: str, blocking: bool
) -> None:
    def fails(where: str, task: str, attempt: int) -> bool:
        return where == place and attempt <= 2 and task[-1] in "147"

    world = broken(fails, error=error, blocking=blocking)
    assert run(world=world, limits=Limits(retries=2, concurrency=5)) == run()
    assert world.open == 0


def test_an_environment_that_cannot_be_made_for_a_while_is_tried_again() -> None:
    world = broken(lambda place, _, attempt: place == "make" and attempt in (2, 3, 5))
    assert run(world=world, limits=Limits(concurrency=4)) == run()
    assert world.open == 0


def test_an_environment_that_cannot_even_close_holds_nobody_up() -> None:
    class Stuck(broken(lambda place, task, n: place == "step" and n == 1)):  # type: ignore[misc]
        def close(self) -> None:
            raise OSError("already gone")

    assert run(world=Stuck) == run()


def lost(place: str, task: str, attempt: int) -> bool:
    return place == "step" and task.endswith(("03", "14"))


def test_a_fault_that_stays_is_recorded_and_enters_no_rate() -> None:
    world = broken(lost)
    found = run(policy=Expert(), world=world)
    bad = [one for one in found if one.faulty]
    assert [one.task_id[-2:] for one in bad] == ["03", "14"]
    for one in bad:
        assert one.error == "Fault: the worker died (attempt 3)"
        assert (one.turns, one.success, one.split) == ((), False, "train")
    assert world.attempts["step", TASKS[3]] == 3
    told = summarise(found)
    assert (told.episodes, told.faults, told.success_rate, told.score_mean) == (28, 2, 1.0, 1.0)


def test_a_fault_is_tried_again_by_the_next_call_and_then_replaced(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        policy = Counting()
        run(policy=policy, world=broken(lost), store=store)
        assert sorted(r["task_id"][-2:] for r in store.summaries(stop="fault")) == ["03", "14"]
        before = sum(policy.asked.values())
        again = run(policy=policy, world=broken(lost), store=store, limits=NO_RETRY)
        assert sum(policy.asked.values()) - before == 2
        assert [t.error[-11:] for t in again if t.faulty] == ["(attempt 1)"] * 2
        assert run(policy=policy, store=store) == run()
        assert store.summaries(stop="fault") == []
        assert list(store.trajectories()) == run()


def test_too_many_faults_are_an_error_and_what_succeeded_is_stored(tmp_path: Path) -> None:
    def fails(place: str, task: str, attempt: int) -> bool:
        return place == "step" and int(task[-2:]) < 16

    with Store(tmp_path / "store.sqlite") as store:
        with pytest.raises(Fault, match=r"16 of 30 episodes failed .* the worker died"):
            run(world=broken(fails), store=store)
        assert len(store.done("")) == 14
        assert sum(t.faulty for t in run(world=broken(fails), limits=Limits(fault_rate=0.6))) == 16


@pytest.mark.parametrize("world", [Corridor, Waits])
def test_a_policys_own_exception_comes_out_and_what_finished_is_stored(
    tmp_path: Path, world: type[Corridor]
) -> None:
    class Fails(Counting):
        def act(self, requests: Sequence[Request]) -> list[Reply]:
            if len(self.asked) > 12:
                raise LookupError("no such token")
            return super().act(requests)

    with Store(tmp_path / "store.sqlite") as store:
        policy = Fails()
        with pytest.raises(LookupError, match="no such token"):
            run(policy=policy, world=world, store=store, limits=Limits(concurrency=4))
        kept = list(store.trajectories())
        assert len(kept) >= 9
        assert [one for one in run() if one.id in {t.id for t in kept}] == kept
        assert set(policy.forgotten) >= set(policy.asked)


def test_an_exception_in_the_preamble_is_the_policys_own() -> None:
    class Fails(Null):
        def preamble(self, instruction: str, spec: Any) -> Any:
            raise ZeroDivisionError("template")

    with pytest.raises(ZeroDivisionError, match="template"):
        run(policy=Fails())


def test_a_fault_of_the_engine_is_tried_again() -> None:
    class Server(Counting):
        def act(self, requests: Sequence[Request]) -> list[Reply]:
            self.batches.append(0)
            if len(self.batches) == 3:
                raise Fault("the server timed out")
            return super().act(requests)

    assert run(policy=Server()) == run()


def test_too_few_replies_are_the_policys_error() -> None:
    class Forgetful(Null):
        def act(self, requests: Sequence[Request]) -> list[Reply]:
            return super().act(requests)[1:]

    with pytest.raises(BadInput, match="29 replies of policy `null` to 30 requests"):
        run(policy=Forgetful())


def test_unknown_tasks_are_refused_before_anything_runs(tmp_path: Path) -> None:
    world = broken(lambda *_: False)
    for bad, error in (("corridor/test/000040", BadInput), ("corridor/tst/000000", UnknownId)):
        policy = Counting()
        with pytest.raises(error), Store(tmp_path / "store.sqlite") as store:
            run([*TASKS, bad], policy, world, store=store)
        assert not policy.asked and world.open == 0
    assert world.attempts["reset", TASKS[0]] == 0


@pytest.mark.parametrize(
    "options",
    [{"samples": 0}, {"limits": Limits(concurrency=0)}, {"limits": Limits(retries=-1)}],
)
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="wanted at least"):
        run(**options)


# Environments that block


class Gate(Waits):
    """House 0 opens its doors only when everybody else is done, a hundred turns later."""

    done: set[str]
    opened: threading.Event
    others: int

    def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
        kind = type(self)
        if self.task.id == TASKS[0]:
            assert kind.opened.wait(30), "the others wait for the slow episode"
        room, outcome = super().act(state, action)
        if outcome.done or self.turns + 1 == self.max_turns:
            kind.done.add(self.task.id)
            if len(kind.done) == kind.others:
                kind.opened.set()
        return room, outcome


@pytest.mark.parametrize("concurrency", [2, 16])
def test_a_slow_environment_holds_nobody_else(concurrency: int) -> None:
    rows = {"done": set(), "opened": threading.Event(), "others": len(TASKS) - 1}
    world = type("Gate", (Gate,), rows)
    found = run(world=world, limits=Limits(concurrency=concurrency, retries=0))
    assert found == run()


def test_no_thread_outlives_a_rollout() -> None:
    before = set(threading.enumerate())
    run(world=Waits, limits=Limits(concurrency=4))
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert set(threading.enumerate()) <= before


def test_environments_that_block_are_made_and_closed_off_the_loop() -> None:
    places: list[tuple[str, bool]] = []

    class Watched(Waits):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            places.append(("made", threading.current_thread() is threading.main_thread()))

        def close(self) -> None:
            places.append(("closed", threading.current_thread() is threading.main_thread()))

    run(world=Watched, limits=Limits(concurrency=4))
    # The caller makes the first one, to check the task ids.
    assert Counter(places) == {("made", True): 1, ("made", False): 3, ("closed", False): 4}
