"""Going on after an interrupt, a kill or a full disk: nothing lost, nothing doubled."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from test_rollout import ENV, NO_RETRY, TASKS, Counting, Waits, run
from worlds import Corridor, Houses, Room

from trialgym.core import Outcome
from trialgym.errors import StorageFull
from trialgym.policy import Reply, Request
from trialgym.records import Trajectory
from trialgym.rollout import Limits
from trialgym.store import Store


def test_the_same_call_again_runs_nothing_and_gives_the_same(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        found = run(store=store, samples=2)
        policy = Counting()
        assert run(policy=policy, store=store, samples=2) == found
        assert not policy.asked
        more = run(policy=policy, store=store, samples=3)
        assert set(policy.asked) == {one.id for one in more if one.sample == 2}
        assert store.groups() == {"": 90}


def test_finished_episodes_are_stored_while_a_slow_one_still_runs(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"

    class Last(Waits):
        def act(self, state: Room, action: str) -> tuple[Room, Outcome]:
            if self.task.id == TASKS[0]:
                until = time.monotonic() + 30
                with Store(path) as other:
                    while len(other.done("")) < 4:
                        assert time.monotonic() < until, "nothing is stored before the end"
                        time.sleep(0.02)
            return super().act(state, action)

    with Store(path) as store:
        assert run(TASKS[:5], world=Last, store=store, limits=NO_RETRY) == run(TASKS[:5])


@pytest.mark.parametrize("world", [Corridor, Waits])
def test_an_interrupt_keeps_what_has_finished(tmp_path: Path, world: type[Corridor]) -> None:
    class Interrupted(Counting):
        def act(self, requests: Sequence[Request]) -> list[Reply]:
            if len(self.asked) > 12:
                signal.raise_signal(signal.SIGINT)
            return super().act(requests)

    with Store(tmp_path / "store.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            run(policy=Interrupted(), world=world, store=store, limits=Limits(concurrency=4))
        assert 9 <= len(store.done("")) < 30
        assert run(store=store) == run()


def test_a_full_disk_stops_the_run_and_the_same_call_completes_it(tmp_path: Path) -> None:
    class Full(Store):
        room = 40

        def add(self, trajectories: Iterable[Trajectory]) -> None:
            rows = list(trajectories)
            self.room -= len(rows)
            if self.room < 0:
                raise StorageFull("no space left")
            super().add(rows)

    with Full(tmp_path / "store.sqlite") as store:
        with pytest.raises(StorageFull):
            run(store=store, samples=4, limits=Limits(concurrency=8))
        kept = len(store.done(""))
        assert 0 < kept <= 40
        store.room = 1000
        assert run(store=store, samples=4) == run(samples=4)


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from worlds import Corridor
from trialgym import rollout as module
from trialgym.agents.scripted import Random
from trialgym.store import Store

class Slow(Corridor):
    blocking = {blocking}
    def act(self, state, action):
        time.sleep(0.001)
        return super().act(state, action)

class Telling(Store):
    def add(self, trajectories):
        super().add(trajectories)
        print(*(one.id for one in trajectories), flush=True)

module.FLUSH_EPISODES = 3
tasks = Corridor().tasks.ids("train", {count})
limits = module.Limits(concurrency=4)
with Telling({path!r}) as store:
    module.rollout(Random(), Slow, tasks, env={env!r}, store=store, limits=limits)
"""


def run_and_kill(path: Path, count: int, generator: random.Random) -> list[str]:
    """Run until some episodes are acknowledged and a little longer, then kill; tell which were."""
    code = CHILD.format(
        tests=str(Path(__file__).parent), path=str(path), count=count, env=ENV,
        blocking=generator.random() < 0.5,
    )  # fmt: skip
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(generator.randrange(1, 4))]
    time.sleep(generator.random() * 0.02)
    child.kill()
    told.append(child.stdout.read())
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL, "the run ended before it was killed"
    text = "".join(told)
    return text[: text.rfind("\n") + 1].split()


@pytest.mark.parametrize(
    "kills", [pytest.param(4, id="quick"), pytest.param(30, id="slow", marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_nothing_is_lost_or_doubled(tmp_path: Path, kills: int) -> None:
    path, count, generator = tmp_path / "store.sqlite", 200 * (1 + kills // 6), random.Random(kills)
    for _ in range(kills):
        acknowledged = run_and_kill(path, count, generator)
        assert acknowledged
        with Store(path) as store:
            assert set(acknowledged) <= store.done("")
    tasks = Houses().ids("train", count)
    with Store(path) as store:
        before = store.done("")
        assert 0 < len(before) < count
        policy = Counting()
        assert run(tasks, policy, store=store) == run(tasks)
        assert len(policy.asked) == count - len(before)
        assert list(store.trajectories()) == run(tasks)
