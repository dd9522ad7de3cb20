"""The hall's words: tasks, the environment's shell, records, registry, errors."""

import json
import pickle
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import worlds
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import trialgym
from trialgym import errors, registry
from trialgym.core import (
    ACTION_LIMIT,
    OBSERVATION_LIMIT,
    AnyText,
    Outcome,
    Snapshot,
    Task,
    TextEnv,
    seed_of,
)
from trialgym.errors import BadFile, BadInput, NotReady, UnknownId
from trialgym.records import (
    Message,
    PolicyInfo,
    StopReason,
    Trajectory,
    Turn,
    episode_key,
    summarise,
    wilson,
)

# Tasks.

TASKS = worlds.Houses()


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert seed_of("corridor", "train", 0) == 2980893271740162990
    assert seed_of("a", "bc") != seed_of("ab", "c")
    assert 0 <= seed_of() < 2**63


@given(st.sampled_from(sorted(TASKS.splits)), st.integers(0, 29))
def test_a_task_is_found_by_its_id(split: str, index: int) -> None:
    task = TASKS[TASKS.task_id(split, index)]
    assert (task.split, task.index) == (split, index)
    assert task == TASKS.build(split, index)


@pytest.mark.parametrize(
    ("task_id", "error", "words"),
    [
        ("", BadInput, "wanted `corridor/<split>/<index>`"),
        ("corridor", BadInput, "such as `corridor/train/000000`"),
        ("corridor/train", BadInput, "task id"),
        ("corridor/train/", BadInput, "task id"),
        ("corridor/train/one", BadInput, "task id"),
        ("corridor/train/-1", BadInput, "task id"),
        ("corridor/train/\u0661", BadInput, "task id"),
        ("corridor/train/\u00b2", BadInput, "task id"),
        ("corridor/train/" + "9" * 19, BadInput, "task id"),
        ("corridor/train/" + "9" * 5000, BadInput, "task id"),
        ("household/train/000000", BadInput, "task id"),
        ("corridor/test/000040", BadInput, "split `test` has 40 tasks; use an index below 40"),
        ("corridor/tset/000000", UnknownId, "did you mean `test`"),
        ("corridor//000000", UnknownId, "known: `train`, `validation`, `test`"),
    ],
)
def test_a_bad_task_id_is_refused_with_the_way_out(
    task_id: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        TASKS[task_id]
    assert len(str(caught.value)) < 500


@given(st.text())
def test_any_text_as_a_task_id_is_a_task_or_our_error(text: str) -> None:
    for task_id in (text, f"corridor/{text}", f"corridor/test/{text}"):
        with suppress(errors.TrialgymError):
            assert TASKS[task_id].id.startswith("corridor/")


def test_ids_are_listed_only_where_a_split_has_them() -> None:
    assert TASKS.ids("test", 2, start=38) == ["corridor/test/000038", "corridor/test/000039"]
    assert len(TASKS.ids("test")) == 40 and TASKS.ids("test", start=40) == []
    assert TASKS.ids("train", 1, start=10**7) == ["corridor/train/10000000"]
    with pytest.raises(BadInput, match="has no end; say how many"):
        TASKS.ids("train")
    with pytest.raises(BadInput, match="3 tasks from index 38; split `test` has 40"):
        TASKS.ids("test", 3, start=38)


def test_a_task_set_yields_its_finite_splits() -> None:
    found = list(TASKS)
    assert len(found) == 70 and {task.split for task in found} == {"validation", "test"}


# The space.


def test_the_space_holds_any_text_up_to_its_length() -> None:
    space = AnyText(3)
    assert "" in space and "\x00中🙂" in space and "abcd" not in space and 3 not in space
    assert space == AnyText(3) and space != AnyText(4) and repr(space) == "AnyText(3)"


def test_the_space_samples_what_it_holds_and_by_seed() -> None:
    space, twin = AnyText(50, seed=3), AnyText(50, seed=3)
    samples = [space.sample() for _ in range(200)]
    assert all(sample in space for sample in samples) and len(set(samples)) > 150
    assert samples == [twin.sample() for _ in range(200)]
    assert any(not sample.isascii() for sample in samples)
    assert AnyText(0).sample() == ""


def test_shared_memory_is_refused_rather_than_giving_blank_text() -> None:
    with pytest.raises(ValueError, match="shared_memory=False"):
        gymnasium.vector.AsyncVectorEnv([worlds.Corridor] * 2)


def test_gymnasiums_vectors_carry_our_text() -> None:
    with closing(gymnasium.vector.SyncVectorEnv([worlds.Corridor] * 2)) as envs:
        observations, _ = envs.reset(seed=1)
        assert all(text.startswith("Walk through house") for text in observations)
        assert envs.step(["read", "é \x00"])[0][1].startswith("Not understood")


def test_gymnasiums_checker_passes() -> None:
    check_env(worlds.Corridor(), skip_render_check=True)


# The shell.


@pytest.fixture
def env() -> worlds.Corridor:
    env = worlds.Corridor()
    env.reset(options={"task": "corridor/test/000003"})
    return env


class Says(worlds.Corridor):
    """Answers with a text of the action's choice."""

    def act(self, state: worlds.Room, action: str) -> tuple[worlds.Room, Outcome]:
        words = {"long": "x" * 50_000, "edge": "x" * OBSERVATION_LIMIT, "half": "a\ud800b"}
        return state, Outcome(words.get(action, action))


def test_rewards_are_the_differences_of_the_score(env: worlds.Corridor) -> None:
    rewards = []
    for _ in range(3):
        _, reward, terminated, truncated, info = env.step(env.expert())
        rewards.append(float(reward))
    assert rewards == pytest.approx([1 / 3] * 3)
    assert (terminated, truncated, info["success"], info["score"]) == (True, False, True, 1.0)


@pytest.mark.parametrize("keeps", [True, False])
def test_the_cap_truncates_and_may_take_the_score(
    env: worlds.Corridor, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worlds.Corridor, "cap_keeps_score", keeps)
    env.max_turns = 2
    _, first, *_ = env.step(env.expert())
    _, second, terminated, truncated, info = env.step("read")
    assert (terminated, truncated) == (False, True)
    assert info["score"] == pytest.approx(float(first) + float(second))
    assert info["score"] == pytest.approx(1 / 3 if keeps else 0)


def test_an_end_on_the_last_turn_is_no_truncation(env: worlds.Corridor) -> None:
    env.max_turns = 1
    wrong = next(c for c in worlds.COLOURS if f"take {c}" != env.expert())
    assert env.step(f"take {wrong}")[2:4] == (True, False)


def test_observations_are_cut_at_their_limit_and_say_so() -> None:
    env = Says(max_turns=9)
    env.reset(seed=1)
    cut = env.step("long")[0]
    assert len(cut) <= OBSERVATION_LIMIT and cut in env.observation_space
    kept, note = cut.split("\n")
    assert note == f"[truncated {50_000 - len(kept)} characters]"
    assert env.step("edge")[0] == "x" * OBSERVATION_LIMIT


@pytest.mark.parametrize("text", ["\ud800", "go \udfff north", "half"])
def test_no_lone_surrogate_comes_in_or_out(text: str) -> None:
    env = Says()
    env.reset(seed=1)
    observation = env.step(text)[0]
    assert observation.encode().decode() == observation and "?" in observation


def test_a_nul_reaches_the_environment() -> None:
    env = Says()
    env.reset(seed=1)
    assert env.step("a\x00b")[0] == "a\x00b"


def test_an_action_past_the_limit_costs_a_turn_and_does_nothing(env: worlds.Corridor) -> None:
    before = env.state_hash()
    long = env.expert() + " " * ACTION_LIMIT
    observation, reward, _, _, info = env.step(long)
    assert f"has {len(long)} characters" in observation
    assert (reward, info["invalid"], env.turns, env.state_hash()) == (0.0, True, 1, before)


def test_a_reply_without_an_action_costs_a_turn(env: worlds.Corridor) -> None:
    before = env.state_hash()
    observation, reward, _, _, info = env.reject("There is no action in this.")
    assert observation == "There is no action in this."
    assert (reward, info["invalid"], env.turns, env.state_hash()) == (0.0, True, 1, before)


def test_an_action_that_is_no_text_is_a_callers_mistake(env: worlds.Corridor) -> None:
    with pytest.raises(BadInput, match="action of type int; wanted str"):
        env.step(3)  # type: ignore[arg-type]
    assert env.turns == 0


def test_nothing_runs_before_reset_or_after_the_end(env: worlds.Corridor) -> None:
    new = worlds.Corridor()
    calls = [lambda e: e.step("read"), lambda e: e.reject(""), lambda e: e.expert()]
    for call in calls:
        with pytest.raises(NotReady, match="has not begun; call `reset`"):
            call(new)
    for name in ("task", "snapshot", "state_hash"):
        with pytest.raises(NotReady):
            found = getattr(new, name)
            found()
    while not env._over:
        env.step(env.expert())
    for call in calls:
        with pytest.raises(NotReady, match="has ended; call `reset`"):
            call(env)


class Stillborn(worlds.Corridor):
    """Cannot start one of its tasks."""

    def start(self, task: Task) -> tuple[worlds.Room, str]:
        if task.index == 5:
            raise errors.Fault("the server is away; try again")
        return super().start(task)


def test_a_reset_that_fails_leaves_no_half_episode() -> None:
    env = Stillborn()
    env.reset(options={"task": "corridor/test/000003"})
    with pytest.raises(errors.Fault):
        env.reset(options={"task": "corridor/test/000005"})
    with pytest.raises(NotReady):
        env.step("read")
    env.reset(options={"task": "corridor/test/000003"})
    env.step("read")


def test_reset_takes_a_task_an_id_or_a_split() -> None:
    env = worlds.Corridor()
    task = Task("mine/one/000001", "", "one", "Walk.", {"doors": ["red"] * 3})
    assert env.reset(options={"task": task})[1]["task_id"] == "mine/one/000001"
    env.reset(seed=1, options={"split": "test"})
    assert env.task.split == "test"
    env.reset()
    assert env.task.split == "train"
    with pytest.raises(BadInput, match=r"reset options \['colour'\]"):
        env.reset(options={"colour": "red"})
    with pytest.raises(UnknownId, match="did you mean `test`"):
        env.reset(options={"split": "tests"})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_turns": 0}, BadInput),
        ({"render_mode": "human"}, BadInput),
        ({"split": "tran"}, UnknownId),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        worlds.Corridor(**options)


@pytest.mark.parametrize("seed", [-1, 1.5, "7"])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    with pytest.raises(BadInput, match="wanted a whole number from 0 up"):
        worlds.Corridor().reset(seed=seed)


def test_seeds_choose_tasks_and_go_on_choosing_them() -> None:
    def draws(seed: int) -> list[str]:
        env = worlds.Corridor()
        env.reset(seed=seed)
        ids = [env.task.id]
        for _ in range(5):
            env.reset()
            ids.append(env.task.id)
        return ids

    assert draws(1) == draws(1) != draws(2)
    assert len(set(draws(1))) == 6


def test_render_shows_the_last_observation() -> None:
    env = worlds.Corridor(render_mode="ansi")
    assert env.render() is None
    observation, _ = env.reset(seed=1)
    assert env.render() == observation
    assert worlds.Corridor().render() is None


def test_admissible_actions_come_when_asked_for_and_end_with_the_episode() -> None:
    env = worlds.Corridor(admissible=True)
    _, info = env.reset(seed=1)
    assert tuple(info["admissible_commands"]) == env.actions().valid
    while not env._over:
        *_, info = env.step(env.expert())
    assert info["admissible_commands"] == [] and env.actions().valid is None


def test_an_environment_without_an_expert_says_so() -> None:
    env = worlds.WithoutExpert()
    env.reset(seed=1)
    with pytest.raises(BadInput, match="WithoutExpert has no expert"):
        env.expert()


# Snapshots.


@pytest.mark.parametrize("kind", [worlds.Corridor, worlds.Live])
@given(data=st.data())
def test_a_fork_goes_on_as_the_episode_would_have(
    kind: type[TextEnv[Any]], data: st.DataObject
) -> None:
    env = kind()
    env.reset(options={"task": "corridor/test/000003"})
    moves = st.sampled_from(["right", "read", "nonsense", "reject", "\x00rejected", "long"])

    def take(place: TextEnv[Any], move: str) -> Any:
        if move == "reject":
            return place.reject("no action")
        action = {"right": place.expert(), "long": place.expert() + " " * ACTION_LIMIT}
        return place.step(action.get(move, move))

    past, future = data.draw(st.lists(moves, max_size=2)), data.draw(st.lists(moves, max_size=3))
    for move in past:
        take(env, move)
    kept = pickle.loads(pickle.dumps(env.snapshot()))
    other = kind()

    def rest(place: TextEnv[Any]) -> list[Any]:
        seen = []
        for move in future:
            if not place._over:
                seen.append((take(place, move), place.state_hash(), place.turns))
        return seen

    wanted = rest(env)
    assert other.restore(kept) == kept.observation
    assert rest(other) == wanted
    assert env.restore(kept) == kept.observation
    assert rest(env) == wanted


def test_a_live_environment_keeps_no_handle_in_its_snapshot() -> None:
    env = worlds.Live()
    env.reset(seed=1)
    env.step("read")
    kept: Snapshot[Any] = env.snapshot()
    assert kept.state is None and kept.actions == ("read",)


# Records.

TEXT = st.text(max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
IDS = st.lists(st.integers(0, 10**6), max_size=4).map(tuple)
MAPPING = st.dictionaries(TEXT, st.none() | st.booleans() | NUMBER | TEXT | st.lists(TEXT))
TURNS = st.builds(
    Turn,
    observation=TEXT,
    action=TEXT,
    text=TEXT,
    thought=TEXT,
    reward=NUMBER,
    valid=st.booleans(),
    candidates=st.lists(TEXT, max_size=3).map(tuple),
    log_prob=st.none() | NUMBER,
    prompt_ids=IDS,
    token_ids=IDS,
    token_log_probs=st.lists(NUMBER, max_size=3).map(tuple),
    loss=st.booleans(),
    judge=st.none() | MAPPING,
)
TRAJECTORIES = st.builds(
    Trajectory,
    env=TEXT,
    task_id=TEXT,
    split=TEXT,
    instruction=TEXT,
    turns=st.lists(TURNS, max_size=3).map(tuple),
    final_observation=TEXT,
    score=st.floats(0, 1),
    success=st.booleans(),
    stop=st.sampled_from(StopReason),
    policy=st.builds(PolicyInfo, name=TEXT, adapter=st.none() | TEXT, iteration=st.integers(0, 9)),
    sample=st.integers(0, 9),
    group=TEXT,
    preamble=st.lists(st.builds(Message, role=TEXT, content=TEXT), max_size=2).map(tuple),
    error=TEXT,
    info=MAPPING,
)


@given(TRAJECTORIES)
def test_a_trajectory_survives_json(trajectory: Trajectory) -> None:
    row = json.loads(json.dumps(trajectory.to_json()))
    again = Trajectory.from_json(row)
    assert again == trajectory and again.id == trajectory.id == row["id"]


@given(TRAJECTORIES, st.integers(0, 4))
def test_a_cut_keeps_the_first_turns_and_shows_the_next_observation(
    trajectory: Trajectory, turns: int
) -> None:
    part = trajectory.cut(turns)
    assert part.turns == trajectory.turns[:turns]
    if turns < len(trajectory.turns):
        assert part.final_observation == trajectory.turns[turns].observation
    else:
        assert part is trajectory


def episode(**changes: Any) -> Trajectory:
    fields: dict[str, Any] = {
        "env": "e",
        "task_id": "t/test/000001",
        "split": "test",
        "instruction": "Walk.",
        "turns": (),
        "final_observation": "",
        "score": 0.0,
        "success": False,
        "stop": StopReason.FAILURE,
        "policy": PolicyInfo("p"),
    }
    return Trajectory(**(fields | changes))


def test_unknown_fields_of_a_row_are_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        Trajectory.from_json(episode().to_json() | {"colour": "red"})


def test_an_episode_is_a_chat_of_observations_and_replies() -> None:
    turns = (
        Turn("You see a door.", "open door", text="Thought: in. Action: open door"),
        Turn("It is open.", "enter", loss=False),
    )
    system = Message("system", "Be brief.")
    chat = episode(turns=turns, final_observation="Done.", preamble=(system,)).messages
    assert chat == (
        system,
        Message("user", "You see a door."),
        Message("assistant", "Thought: in. Action: open door", loss=True),
        Message("user", "It is open."),
        Message("assistant", "enter"),
        Message("user", "Done."),
    )


def test_the_key_of_an_episode_tells_every_part_apart() -> None:
    one = PolicyInfo("p")
    keys = {
        episode_key("g", "e", "t", one, 0),
        episode_key("h", "e", "t", one, 0),
        episode_key("g", "f", "t", one, 0),
        episode_key("g", "e", "u", one, 0),
        episode_key("g", "e", "t", one, 1),
        episode_key("ge", "", "t", one, 0),
        *(
            episode_key("g", "e", "t", policy, 0)
            for policy in (
                PolicyInfo("q"),
                PolicyInfo("p", adapter="a"),
                PolicyInfo("p", iteration=1),
                PolicyInfo("p", temperature=1.0),
                PolicyInfo("p", seed=1),
            )
        ),
    }
    assert len(keys) == 11
    assert episode(group="g").id == episode_key("g", "e", "t/test/000001", one, 0)


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [  # Newcombe 1998, table I, method 3; and the ends.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_intervals_are_the_published_ones(
    successes: int, episodes: int, low: float, high: float
) -> None:
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 10**6))
def test_a_wilson_interval_ends_exactly_where_nothing_or_everything_succeeded(n: int) -> None:
    assert (wilson(0, n)[0], wilson(n, n)[1]) == (0.0, 1.0)


@given(st.integers(1, 10**6), st.data())
def test_a_wilson_interval_holds_its_rate(episodes: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, episodes))
    low, high = wilson(successes, episodes)
    assert 0 <= low <= successes / episodes + 1e-12
    assert successes / episodes - 1e-12 <= high <= 1


def test_a_summary_counts_faults_apart() -> None:
    turns = (Turn("a", "b"), Turn("c", "d", valid=False))
    episodes = [
        episode(turns=turns, score=1.0, success=True, stop=StopReason.SUCCESS),
        episode(turns=turns[:1], score=0.5),
        episode(turns=turns[1:], stop=StopReason.FAULT, error="the server is away"),
    ]
    found = summarise(iter(episodes))
    assert (found.episodes, found.faults, found.env_steps) == (2, 1, 4)
    assert (found.success_rate, found.score_mean) == (0.5, 0.75)
    assert (found.invalid_rate, found.turns_mean) == (pytest.approx(1 / 3), 1.5)
    assert (found.low, found.high) == wilson(1, 2)


def test_a_summary_of_nothing_and_of_faults_alone_claims_nothing() -> None:
    for episodes in ([], [episode(stop=StopReason.FAULT)]):
        found = summarise(episodes)
        assert (found.episodes, found.success_rate) == (0, 0.0)
        assert (found.low, found.high) == (0.0, 1.0)
        json.dumps(found.to_json(), allow_nan=False)


# Registry.


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package that adds rows, without installing it."""
    info = tmp_path / "corridors-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: corridors\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[trialgym.envs]\n"
        "corridors/Corridor-v0 = worlds:Corridor\n"
        "trialgym/Household-v0 = worlds:Corridor\n"
        "corridors/Broken-v0 = worlds:Nothing\n"
        "[trialgym.agents]\nwalker = worlds:Handle\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry.table.cache_clear()
    yield tmp_path
    registry.table.cache_clear()
    gymnasium.registry.pop("corridors/Corridor-v0", None)
    gymnasium.registry.pop("corridors/Broken-v0", None)


def test_other_packages_add_rows_and_ours_win(package: Path) -> None:
    assert isinstance(trialgym.make("corridors/Corridor-v0", max_turns=3), worlds.Corridor)
    assert registry.table("agent")["walker"] == "worlds:Handle"
    assert registry.table("env")["trialgym/Household-v0"] == registry.ENVS["trialgym/Household-v0"]
    trialgym.register_with_gymnasium()
    with gymnasium.make("corridors/Corridor-v0") as env:
        assert isinstance(env.unwrapped, worlds.Corridor)


def test_a_row_that_leads_nowhere_is_named(package: Path) -> None:
    with pytest.raises(BadInput, match="registry row `worlds:Nothing`; wanted `module:Name`"):
        trialgym.make("corridors/Broken-v0")


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("env", "trialgym/Houshold-v0", "unknown env .*; did you mean `trialgym/Household-v0`"),
        ("env", "Database-v0", "did you mean `trialgym/Database-v0`"),
        ("env", "chess", "known: `trialgym/Household-v0`"),
        ("agent", "rankr", "did you mean `ranker`"),
        ("algorithm", "etoo", "did you mean `eto`"),
    ],
)
def test_unknown_ids_get_the_nearest_one(kind: str, name: str, words: str) -> None:
    with pytest.raises(UnknownId, match=words):
        registry.find(kind, name)


def test_options_that_an_environment_does_not_take_are_named(package: Path) -> None:
    with pytest.raises(BadInput, match=r"options \['colour'\] of `corridors/Corridor-v0`"):
        trialgym.make("corridors/Corridor-v0", colour="red")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_turns": "foo"}, "option `max_turns` of .* is 'foo'; wanted int"),
        ({"max_turns": True}, "wanted int"),
        ({"split": 3}, r"wanted str \| None"),
        ({"partial": 1}, "wanted bool"),
        ({"grammar": [1]}, "wanted typing.Literal"),
        ({"grammar": "mve"}, "wanted `move` or `put`"),
        ({"tasks": Path("tasks.jsonl")}, "wanted trialgym.core.TaskSet"),
    ],
)
def test_an_option_of_another_type_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        trialgym.make("trialgym/Household-v0", **options)


def test_whole_numbers_pass_for_floats_and_unknown_types_for_anything() -> None:
    def factory(seconds: float, rest: Any, hidden: "Nowhere" = None) -> tuple[float, Any]:  # type: ignore[name-defined]  # noqa: F821
        return seconds, rest

    assert registry._call(factory, "f", {"seconds": 2, "rest": []}) == (2, [])
    trialgym.make("trialgym/Database-v0", statement_time=2).close()


# Errors.


@pytest.mark.parametrize(
    "error",
    [
        UnknownId("env", "chess", ["go", "chest"]),
        BadInput("a; b; c"),
        BadFile(Path("x.json"), "no list; wanted one", line=3, field="turns"),
        BadFile("x.json", "empty"),
        NotReady("no"),
        errors.MissingExtra("torch", "train"),
        errors.RunConflict("in use"),
        errors.StorageFull(28, "no space left"),
        errors.Fault("away"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_process_borders(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert vars(again) == vars(error)
    assert isinstance(again, errors.TrialgymError)


def test_a_message_is_short_whatever_was_given() -> None:
    assert len(str(UnknownId("env", "x" * 10**6, [f"name{i}" for i in range(1000)]))) < 500


def test_a_missing_extra_says_how_to_get_it() -> None:
    words = str(errors.MissingExtra("torch", "train"))
    assert words == "`torch` is not installed; run `pip install 'trialgym[train]'`"


def test_a_bad_file_names_line_and_field() -> None:
    assert str(BadFile("a.json", "empty", line=2)) == "a.json, line 2: empty"
    assert isinstance(BadFile("a", "b"), ValueError) and isinstance(NotReady(), RuntimeError)


def test_numpy_text_is_text(env: worlds.Corridor) -> None:
    assert env.step(np.str_("read"))[0].startswith("The sign says")
