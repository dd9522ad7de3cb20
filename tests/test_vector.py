"""Vectors of text environments: the same episodes as one alone, whatever runs them."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import worlds
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

import trialgym
from trialgym.core import Outcome, TextEnv
from trialgym.envs.vector import SlotStep, TextVectorEnv, batch_infos
from trialgym.errors import BadFile, BadInput, Fault, NotReady, TrialgymError, UnknownId

BACKENDS = ("inline", "thread", "process")
WORDS = ("read", "take red", "take green", "take blue", "nonsense é \ud800")


class Sick(worlds.Corridor):
    """Fails in many ways, when asked to."""

    def act(self, state: worlds.Room, action: str) -> tuple[worlds.Room, Outcome]:
        match action:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "bad file":
                raise BadFile("a.json", "no such field", line=3, field="x")
            case "unknown":
                raise UnknownId("colour", "rad", ["red"])
            case "unpicklable":
                raise Unpicklable(lambda: None)
            case "print":
                print("noise" * 10_000)
                sys.stdout.flush()
        return super().act(state, action)

    def pid(self) -> int:
        return os.getpid()

    def secret(self) -> Callable[[], None]:
        return lambda: None


class Unpicklable(Exception):
    pass


def never(words: str) -> TextEnv[Any]:
    raise BadInput(words)


@pytest.fixture
def vector() -> Iterator[Callable[..., TextVectorEnv]]:
    made: list[TextVectorEnv] = []

    def build(*arguments: Any, **options: Any) -> TextVectorEnv:
        made.append(TextVectorEnv(*arguments, **options))
        return made[-1]

    yield build
    for envs in made:
        envs.close()


Build = Callable[..., TextVectorEnv]


def scripted(slot: int, turn: int) -> str:
    return WORDS[(slot * 3 + turn * 2) % len(WORDS)]


def transcript(envs: TextVectorEnv, turns: int = 20) -> list[list[object]]:
    """What each slot sees, as lists that compare by value."""
    observations, infos = envs.reset(seed=5)
    seen: list[list[object]] = [[observations[slot]] for slot in range(envs.num_envs)]
    for turn in range(turns):
        actions = [scripted(slot, turn) for slot in range(envs.num_envs)]
        observations, rewards, ended, cut, infos = envs.step(actions)
        for slot in range(envs.num_envs):
            row = (rewards[slot], ended[slot], cut[slot], infos["task_id"][slot])
            final = infos["final_obs"][slot] if "final_obs" in infos else None
            seen[slot].append((observations[slot], *row, final))
    return seen


def test_a_slot_sees_the_same_whatever_the_back_end_and_the_width(vector: Build) -> None:
    wide = transcript(vector([worlds.Corridor] * 7))
    for backend in BACKENDS:
        assert transcript(vector([worlds.Corridor] * 7, backend=backend, workers=3)) == wide
        assert transcript(vector([worlds.Corridor] * 2, backend=backend)) == wide[:2]


def test_a_slot_sees_what_one_environment_alone_sees(vector: Build) -> None:
    seen = transcript(vector([worlds.Corridor] * 3))
    env = worlds.Corridor()
    observation, _ = env.reset(seed=5 + 2)
    alone: list[object] = [observation]
    for turn in range(20):
        observation, reward, ended, cut, info = env.step(scripted(2, turn))
        final = None
        if ended or cut:
            final = observation
            observation, info = env.reset()
        alone.append((observation, reward, ended, cut, info["task_id"], final))
    assert [row[:-1] for row in seen[2][1:]] == [row[:-1] for row in alone[1:]]
    kept = [(a[-1], b[-1]) for a, b in zip(seen[2][1:], alone[1:], strict=True) if b[-1]]
    assert kept and all(ours == theirs for ours, theirs in kept)


def assert_equal(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, tuple):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_equal(mine, other)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
    else:
        assert ours == theirs


def test_every_return_value_equals_gymnasiums_own_vector(vector: Build) -> None:
    make = partial(worlds.Corridor, admissible=True, max_turns=4)
    ours = vector([make] * 5)
    mode = AutoresetMode.SAME_STEP
    with closing(SyncVectorEnv([make] * 5, autoreset_mode=mode)) as theirs:
        assert ours.metadata == theirs.metadata
        assert ours.observation_space == theirs.observation_space
        assert ours.action_space == theirs.action_space
        assert_equal(ours.reset(seed=9), theirs.reset(seed=9))
        finals = 0
        for turn in range(25):
            actions = tuple(scripted(slot, turn) for slot in range(5))
            mine, other = ours.step(actions), theirs.step(actions)
            assert_equal(mine, other)
            finals += "final_obs" in mine[-1]
        assert finals > 3


@given(st.data())
def test_infos_are_batched_as_gymnasium_batches_them(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([int, bool, float, str, list, dict]), max_size=4))
    of = {int: st.integers(-9, 9), bool: st.booleans(), float: st.floats(-1, 1), str: st.text()}
    of |= {list: st.lists(st.text()), dict: st.dictionaries(st.just("inner"), st.integers(0, 3))}
    infos = {
        slot: {
            f"key{index}": data.draw(of[kind])
            for index, kind in enumerate(kinds)
            if data.draw(st.booleans())
        }
        for slot in range(3)
    }
    wanted: dict[str, Any] = {}
    judge = gymnasium.vector.VectorEnv()
    judge.num_envs = 3
    for slot, info in infos.items():
        wanted = judge._add_info(wanted, info, slot)
    assert_equal(batch_infos(infos, 3), wanted)


def test_whole_and_fractional_numbers_share_a_float_column() -> None:
    column = batch_infos({0: {"score": 0}, 1: {"score": 0.5}}, 2)["score"]
    assert column.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_given_slots_step(vector: Build, backend: str) -> None:
    envs = vector([worlds.Corridor] * 5, backend=backend, workers=2)
    envs.reset(seed=1)
    right = envs.call("expert")
    steps = envs.step_some([4, 1], [right[4], "nonsense"])
    assert [type(step) for step in steps] == [SlotStep, SlotStep]
    assert steps[0].observation == "You stand in room 1."
    assert steps[1].info["invalid"]
    assert envs.call("turns") == (0, 1, 0, 0, 1)
    assert envs.step_some([], []) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_may_differ(vector: Build, backend: str) -> None:
    kinds = [worlds.Live, partial(worlds.Corridor, max_turns=2), partial(worlds.Corridor)]
    envs = vector(kinds, backend=backend, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=[4, 4, 4])
    envs.step(["read"] * 3)
    assert envs.step(["read"] * 3)[3].tolist() == [False, True, False]
    assert envs.call("live") == (True, False, False)


def test_without_autoreset_an_ended_slot_waits_for_its_mask(vector: Build) -> None:
    kinds = [partial(worlds.Corridor, max_turns=1), worlds.Corridor]
    envs = vector(kinds, autoreset_mode="Disabled")
    envs.reset(seed=1)
    observations, *_, infos = envs.step(["nonsense", "read"])
    assert "final_obs" not in infos and observations[0].startswith("Not understood")
    with pytest.raises(NotReady, match="has ended") as caught:
        envs.step(["read", "read"])
    assert caught.value.__notes__ == ["in slot 0 of the vector"]
    options = {"reset_mask": np.array([True, False])}
    again, infos = envs.reset(options=options)
    assert "reset_mask" in options
    assert again[0].startswith("Walk through house") and again[1].startswith("The sign says")
    assert infos["_task_id"].tolist() == [True, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_slot_may_get_a_task_of_its_own(vector: Build, backend: str) -> None:
    envs = vector([worlds.Corridor] * 3, backend=backend)
    ids = [f"corridor/test/{index:06d}" for index in (7, 3, 5)]
    _, infos = envs.reset(options=[{"task": each} for each in ids])
    assert infos["task_id"].tolist() == ids
    assert [task.id for task in envs.call("task")] == ids


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        ("bad file", BadFile, "a.json, line 3, field `x`: no such field"),
        ("unknown", UnknownId, "did you mean `red`"),
    ],
)
def test_errors_keep_their_type_and_name_their_slot(
    vector: Build, backend: str, action: str, error: type[Exception], words: str
) -> None:
    envs = vector([worlds.Corridor, Sick, Sick], backend=backend)
    envs.reset(seed=1)
    with pytest.raises(error, match=words) as caught:
        envs.step(["read", "read", action])
    assert caught.value.__notes__ == ["in slot 2 of the vector"]
    assert envs.step_some([0], ["read"])[0].observation.startswith("The sign")


def test_what_cannot_leave_a_worker_is_said_and_the_worker_lives(vector: Build) -> None:
    envs = vector([Sick] * 2, backend="process", workers=1)
    envs.reset(seed=1)
    with pytest.raises(TrialgymError, match=r"Unpicklable .* cannot leave its worker"):
        envs.step(["read", "unpicklable"])
    with pytest.raises(TrialgymError, match=r"function .* cannot leave its worker"):
        envs.call("secret")
    assert len(envs.step(["read", "read"])[0]) == 2


def test_what_an_environment_prints_does_not_reach_the_answers(vector: Build) -> None:
    envs = vector([Sick], backend="process")
    envs.reset(seed=1)
    assert envs.step(["print"])[0][0].startswith("Not understood")


def test_a_killed_worker_is_a_fault_of_its_slots_only(vector: Build) -> None:
    envs = vector([Sick] * 4, backend="process", workers=2)
    envs.reset(seed=1)
    for _ in range(2):
        with pytest.raises(Fault, match="ended with code -9") as caught:
            envs.step(["read", "read", "die", "read"])
        assert caught.value.__notes__ == ["in slot 2 of the vector"]
    assert [step.terminated for step in envs.step_some([0, 1], ["read", "read"])] == [False] * 2


def test_blocks_of_slots_share_a_worker(vector: Build) -> None:
    envs = vector([Sick] * 5, backend="process", workers=2)
    pids = envs.call("pid")
    assert len(set(pids)) == 2 and pids[0] == pids[1] and pids[2] == pids[3] == pids[4]
    assert os.getpid() not in pids


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_close_leaves_no_process_and_no_way_back(vector: Build) -> None:
    envs = vector([Sick] * 3, backend="process", workers=3)
    pids = envs.call("pid")
    assert all(map(alive, pids))
    envs.close()
    envs.close()
    assert not any(map(alive, pids))
    with pytest.raises(NotReady, match="closed"):
        envs.reset()


def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        "import os, signal; from test_vector import Sick; "
        "from trialgym.envs.vector import TextVectorEnv; "
        "envs = TextVectorEnv([Sick] * 2, backend='process', workers=2); "
        "print(*envs.call('pid'), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    here = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=here)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    deadline = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids))


def test_a_vector_in_a_script_without_a_main_guard_works(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import trialgym.envs.vector as v, worlds\n"
        "class Mine(worlds.Corridor): ...\n"
        "envs = v.TextVectorEnv([lambda: Mine(max_turns=3)] * 2, backend='process')\n"
        "print(len(envs.reset(seed=1)[0]))\n"
        "envs.close()\n"
    )
    here = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=here)
    assert done.stdout.strip() == "2", done.stderr


def test_an_interrupt_leaves_no_stale_answer(vector: Build, monkeypatch: Any) -> None:
    envs = vector([worlds.Corridor] * 2, backend="process", workers=2)
    envs.reset(seed=1)
    second = envs._backend.workers[1]  # type: ignore[attr-defined]

    def interrupt(count: int) -> list[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(second, "answers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        envs.step(["read", "read"])
    monkeypatch.undo()
    with pytest.raises(Fault):
        envs.step(["read", "read"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_factory_that_fails_fails_the_vector_with_its_own_error(backend: str) -> None:
    with pytest.raises(BadInput, match="no such world"):
        TextVectorEnv([worlds.Corridor, partial(never, "no such world")], backend=backend)
    gc.collect()


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (["read"], "1 actions for 2 slots"),
        ("ab", "2 actions for 2 slots"),
        (["read", 3], "action of type int"),
        (["read", None], "action of type NoneType"),
    ],
)
def test_actions_that_are_none_step_nothing(vector: Build, actions: Any, words: str) -> None:
    envs = vector([worlds.Corridor] * 2)
    envs.reset(seed=1)
    with pytest.raises(BadInput, match=words):
        envs.step(actions)
    assert envs.call("turns") == (0, 0)


@pytest.mark.parametrize("slots", [[0, 0], [2], [-1]])
def test_slots_that_are_none_step_nothing(vector: Build, slots: list[int]) -> None:
    envs = vector([worlds.Corridor] * 2)
    envs.reset(seed=1)
    with pytest.raises(BadInput, match="different ones below 2"):
        envs.step_some(slots, ["read"] * len(slots))
    assert envs.call("turns") == (0, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "threads"}, "wanted one of inline, thread, process"),
        ({"autoreset_mode": "NextStep"}, "throw away one reply"),
        ({"autoreset_mode": "never"}, "wanted SAME_STEP or DISABLED"),
        ({"workers": 0}, "at least 1 of each"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        TextVectorEnv([worlds.Corridor], **options)


def test_no_slots_are_refused() -> None:
    with pytest.raises(BadInput, match="0 slots"):
        TextVectorEnv([])


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": [1]},
        {"options": [{}]},
        {"options": {"reset_mask": np.array([False, False])}},
        {"options": {"reset_mask": np.array([1, 0])}},
        {"options": {"reset_mask": np.array([True])}},
        {"options": {"colour": "red"}},
    ],
)
def test_a_reset_of_the_wrong_shape_is_refused(vector: Build, arguments: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        vector([worlds.Corridor] * 2).reset(**arguments)


@pytest.fixture
def corridor_row(monkeypatch: pytest.MonkeyPatch) -> str:
    name = "tests/Corridor-v0"
    rows = trialgym.registry.table("env")
    monkeypatch.setitem(rows, name, "worlds:Corridor")
    trialgym.register_with_gymnasium()
    monkeypatch.setitem(gymnasium.registry, name, gymnasium.registry[name])
    return name


def test_make_vec_takes_an_id_and_options(corridor_row: str) -> None:
    with closing(trialgym.make_vec(corridor_row, 3, max_turns=2)) as envs:
        assert isinstance(envs, TextVectorEnv) and envs.num_envs == 3
        assert envs.call("max_turns") == (2, 2, 2)
    with pytest.raises(UnknownId, match="did you mean `tests/Corridor-v0`"):
        trialgym.make_vec("tests/Coridor-v0", 2)
    with pytest.raises(BadInput, match="max_turn"):
        trialgym.make_vec(corridor_row, 2, max_turn=2)


def test_gymnasiums_make_vec_gives_our_vector(corridor_row: str) -> None:
    with closing(gymnasium.make_vec(corridor_row, 4, max_turns=3)) as envs:
        assert isinstance(envs, TextVectorEnv) and envs.num_envs == 4
        assert envs.spec is not None and envs.spec.id == corridor_row
        assert envs.reset(seed=1)[0][0].startswith("Walk through")
    spec = gymnasium.registry[corridor_row]
    again = gymnasium.envs.registration.EnvSpec.from_json(spec.to_json())
    with closing(gymnasium.make_vec(again, 2, backend="thread")) as envs:
        assert isinstance(envs, TextVectorEnv) and envs.num_envs == 2


def test_a_slot_step_crosses_process_borders_unchanged() -> None:
    step = SlotStep("a", 0.5, True, False, {"score": 0.5}, "b", {"score": 1.0})
    assert pickle.loads(pickle.dumps(step)) == step
