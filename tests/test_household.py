"""Household: commands against a plain second world, texts by the letter, scores, hostile input.

`TRIALGYM_WRITE_GOLDEN=1 pytest tests/test_household.py -k recorded` writes the golden episodes
anew; look at the difference before committing it.
"""

import json
import os
import pickle
import random
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from household_plain import PlainWorld, kitchen, play, says, universe, wander
from hypothesis import given
from hypothesis import strategies as st

from trialgym import make
from trialgym.envs.household import Household, commands, world
from trialgym.envs.household.tasks import NAMES, HouseholdTasks

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
SET = HouseholdTasks()


@pytest.mark.parametrize("grammar", ["move", "put"])
def test_every_command_does_what_a_plain_second_world_says(grammar):
    generator = random.Random(f"oracle {grammar}")
    env = Household(grammar=grammar, max_turns=1000)
    finished = 0
    for index in range(60):
        task = SET.build("train", index)
        env.reset(options={"task": task})
        plain = PlainWorld(task, grammar)
        script = list(universe(env._state.room))
        for turn in range(40):
            if turn % 8 == 7:
                command = generator.choice(script)
            elif turn > 20 or generator.random() < 0.3:
                command = env.expert()
            else:
                command = generator.choice(env.admissible(env._state))
            observation, _, terminated, _, info = env.step(command)
            expected = commands.grammar(grammar).grammar if command == "help" else plain.do(command)
            assert observation == (expected or "Nothing happens.")
            assert info["invalid"] == (expected is None)
            assert terminated == info["success"] == plain.done()
            if terminated:
                finished += 1
                break
    assert finished > 20


def check_listing(env):
    """Compare what is listed with what works, over every command that can be formed."""
    state, script = env._state, set(universe(env._state.room)) - {"help"}
    listed = env.admissible(state)
    assert len(set(listed)) == len(listed)
    assert {c for c in script if not env.act(state, c)[1].invalid} == set(listed)


@pytest.mark.parametrize("grammar", ["move", "put"])
def test_the_admissible_commands_are_exactly_those_that_work(grammar):
    generator = random.Random(grammar)
    env = Household(grammar=grammar, max_turns=1000)
    for index in range(12):
        env.reset(options={"task": SET.build("train", index)})
        check_listing(env)
        while env.turns < 18 and wander(env, generator, 6):
            check_listing(env)


@pytest.mark.parametrize(
    "script",
    [
        [
            *("go to countertop 1", "take knife 1 from countertop 1"),
            *("slice apple 1 with knife 1", "go to fridge 1", "go to sinkbasin 1"),
        ],
        [
            *("go to countertop 1", "take apple 1 from countertop 1", "go to microwave 1"),
            *("heat apple 1 with microwave 1", "close microwave 1", "go to fridge 1"),
            *("open fridge 1", "go to sinkbasin 1", "clean apple 1 with sinkbasin 1"),
        ],
        ["go to desk 1", "use desklamp 1", "take egg 2 from desk 1", "go to cabinet 1"],
    ],
)
def test_the_listing_is_exact_beside_every_appliance_knife_and_lamp(script):
    env = Household()
    env.reset(options={"task": kitchen()})
    for command in script:
        assert command in env.admissible(env._state)
        env.step(command)
        check_listing(env)


def test_help_is_the_only_command_that_works_unlisted():
    observation, info, *_ = play(kitchen(), ["help"], admissible=True)[0]
    assert "move {object} to {receptacle}" in observation
    assert not info["invalid"] and "help" not in info["admissible_commands"]


# Texts, by the letter.


def test_the_first_observation_lists_the_room_and_names_the_task():
    assert Household().start(kitchen())[1] == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly "
        "around you, you see a cabinet 1, a countertop 1, a desk 1, a fridge 1, a microwave 1, "
        "and a sinkbasin 1.\n\nYour task is to: put a hot egg in countertop."
    )


def test_the_texts_of_the_newer_grammar():
    script = {
        "inventory": "You are not carrying anything.",
        "go to fridge 1": "You arrive at fridge 1. The fridge 1 is closed.",
        "look": "You are facing the fridge 1. Next to it, you see nothing.",
        "examine fridge 1": "The fridge 1 is closed.",
        "open fridge 1": "You open the fridge 1. The fridge 1 is open. In it, you see a egg 1.",
        "examine egg 1": "There's nothing special about egg 1.",
        "take egg 1 from fridge 1": "You pick up the egg 1 from the fridge 1.",
        "close fridge 1": "You close the fridge 1.",
        "cool egg 1 with fridge 1": "You cool the egg 1 using the fridge 1.",
        "go to sinkbasin 1": "You arrive at sinkbasin 1. On the sinkbasin 1, you see a mug 1.",
        "clean egg 1 with sinkbasin 1": "You clean the egg 1 using the sinkbasin 1.",
        "go to microwave 1": "You arrive at microwave 1. The microwave 1 is open. In it, you see "
        "nothing.",
        "heat egg 1 with microwave 1": "You heat the egg 1 using the microwave 1.",
        "examine egg 1 ": "This is a hot and clean egg 1.",
        " INVENTORY": "You are carrying: a egg 1.",
        "go to countertop 1": "You arrive at countertop 1. On the countertop 1, you see a apple 1, "
        "and a knife 1.",
        "move egg 1 to countertop 1": "You move the egg 1 to the countertop 1.",
    }
    assert says(kitchen(), script) == list(script.values())


def test_the_texts_of_the_older_grammar():
    script = {
        "go to desk 1": "You arrive at loc 3. On the desk 1, you see a desklamp 1, and a egg 2.",
        "use desklamp 1": "You turn on the desklamp 1.",
        "examine desklamp 1": "This is a lit desklamp 1.",
        "go to countertop 1": "You arrive at loc 2. On the countertop 1, you see a apple 1, and a "
        "knife 1.",
        "take knife 1 from countertop 1": "You pick up the knife 1 from the countertop 1.",
        "slice apple 1 with knife 1": "You sliced the apple 1 with the knife 1.",
        "examine apple 1": "This is a sliced apple 1.",
        "put knife 1 in/on countertop 1": "You put the knife 1 in/on the countertop 1.",
    }
    assert says(kitchen(), script, grammar="put") == list(script.values())


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        ("move", "move apple 1 to countertop 1", "put apple 1 in/on countertop 1"),
        ("put", "put apple 1 in/on countertop 1", "move apple 1 to countertop 1"),
    ],
)
def test_each_grammar_refuses_the_other_ones_words(grammar, right, wrong):
    script = ["go to countertop 1", "take apple 1 from countertop 1", wrong, right]
    turns = play(kitchen(), script, grammar=grammar)
    assert [turn[1]["invalid"] for turn in turns] == [False, False, True, False]
    assert turns[2][0] == "Nothing happens."


@pytest.mark.parametrize(
    "command",
    [
        "go to desk",
        "go to  desk 1",
        "go to desk 1.",
        "go to desk 2",
        "go to desk 1 now",
        "goto desk 1",
        "desk 1",
        "open desk 1",
        "take egg 2 from desk 1",
        "move egg 2 to desk 1",
        "use desk 1",
        "loo\N{KELVIN SIGN}",
        "look\x00",
        "lo\x1fok",
        "look\n\nlook",
        "look" + " " * 300,
        "\u202elook",
        "",
    ],
)
def test_what_is_no_command_of_the_moment_changes_nothing(command):
    ((observation, info, reward, terminated),) = play(kitchen(), [command])
    assert (observation, info["invalid"], reward, terminated) == (
        "Nothing happens.",
        True,
        0,
        False,
    )


@pytest.mark.parametrize("command", ["  Go To DESK 1\t", "go to desk 1\r\n", "GO TO DESK 1"])
def test_case_and_surrounding_space_do_not_matter(command):
    assert says(kitchen(), [command])[0].startswith("You arrive at desk 1.")


@given(st.lists(st.text(max_size=60) | st.text("aeglo 1/\n\x00", max_size=30), max_size=8))
def test_any_text_is_answered_and_only_commands_of_the_universe_count(texts):
    env = Household()
    env.reset(options={"task": kitchen()})
    known = set(universe(env._state.room))
    for text in texts:
        before = env._state
        _, _, _, _, info = env.step(text)
        if text.strip().lower() not in known:
            assert info["invalid"] and env._state is before


# Goals and scores.


def test_each_type_of_goal_is_met_by_its_own_deed_and_by_no_other():
    get = ["go to desk 1", "take egg 2 from desk 1"]
    put = ["go to countertop 1", "move egg 2 to countertop 1"]
    for kind, work in {
        "pick_and_place": [],
        "pick_clean_then_place": ["go to sinkbasin 1", "clean egg 2 with sinkbasin 1"],
        "pick_heat_then_place": ["go to microwave 1", "heat egg 2 with microwave 1"],
        "pick_cool_then_place": ["go to fridge 1", "cool egg 2 with fridge 1"],
    }.items():
        turns = play(kitchen(kind), get + work + put)
        assert [turn[3] for turn in turns] == [False] * (len(turns) - 1) + [True]
        assert turns[-1][1]["success"] and turns[-1][2] == 1.0
        if work:
            assert not play(kitchen(kind), get + put)[-1][3]


def test_heat_undoes_cold_and_cold_undoes_heat():
    script = [
        *("go to desk 1", "take egg 2 from desk 1", "go to microwave 1"),
        *("heat egg 2 with microwave 1", "go to fridge 1", "cool egg 2 with fridge 1"),
        *("examine egg 2", "go to countertop 1", "move egg 2 to countertop 1"),
    ]
    turns = play(kitchen("pick_heat_then_place"), script)
    assert turns[6][0] == "This is a cold egg 2."
    assert not turns[-1][3]


def test_a_lamp_lit_beforehand_lights_what_is_brought_to_it():
    task = kitchen("look_at_obj_in_light", "mug", "desklamp")
    script = ["go to desk 1", "use desklamp 1", "go to sinkbasin 1", "take mug 1 from sinkbasin 1"]
    turns = play(task, [*script, "go to desk 1"], partial=True)
    assert [turn[1]["score"] for turn in turns] == [0, 0.5, 0, 0.5, 1]
    assert [turn[2] for turn in turns] == [0, 0.5, -0.5, 0.5, 0.5]
    assert turns[-1][3]


def test_two_objects_count_only_in_one_and_the_same_place():
    script = [
        *("go to desk 1", "take egg 2 from desk 1", "go to countertop 1"),
        *("move egg 2 to countertop 1", "go to fridge 1", "open fridge 1"),
        *("take egg 1 from fridge 1", "go to sinkbasin 1", "move egg 1 to sinkbasin 1"),
        *("take egg 1 from sinkbasin 1", "go to countertop 1", "move egg 1 to countertop 1"),
    ]
    turns = play(kitchen("pick_two_obj"), script, partial=True)
    assert [turn[1]["score"] for turn in turns] == [0, 0, 0] + [0.5] * 8 + [1]


def test_partial_score_wants_property_and_place_of_one_object():
    script = [
        *("go to desk 1", "take egg 2 from desk 1", "go to countertop 1"),
        *("move egg 2 to countertop 1", "go to fridge 1", "open fridge 1"),
        *("take egg 1 from fridge 1", "go to microwave 1", "heat egg 1 with microwave 1"),
    ]
    turns = play(kitchen(), script, partial=True)
    assert [turn[1]["score"] for turn in turns] == [0, 0, 0] + [0.5] * 6
    assert not turns[-1][1]["success"]


def test_partial_score_counts_a_property_without_its_place():
    script = ["go to desk 1", "take egg 2 from desk 1", "go to microwave 1"]
    turns = play(kitchen(), [*script, "heat egg 2 with microwave 1"], partial=True)
    assert [turn[1]["score"] for turn in turns] == [0, 0, 0, 0.5]


def test_the_partial_score_is_one_exactly_at_success_and_rewards_sum_to_it():
    generator = random.Random("partial")
    env = Household(partial=True, max_turns=1000)
    seen = set()
    for index in range(120):
        env.reset(options={"task": SET.build("train", index)})
        total, over = 0.0, False
        for turn in range(60):
            if over:
                break
            valid = env.admissible(env._state)
            command = env.expert() if turn > 15 else generator.choice(valid)
            _, reward, over, _, info = env.step(command)
            total += reward
            seen.add(info["score"])
            assert total == pytest.approx(info["score"])
            assert over == info["success"] == (info["score"] == 1) == world.achieved(env._state)
            assert info["score"] == world.progress(env._state)
    assert seen == {0, 0.5, 1}


def test_without_partial_only_success_scores():
    env = Household()
    for index in range(18):
        env.reset(options={"task": SET.build("train", index)})
        rewards, over = [], False
        while not over:
            _, reward, over, *_ = env.step(env.expert())
            rewards.append(reward)
        assert rewards == [0] * (len(rewards) - 1) + [1]


# Episodes as values.


def test_acting_leaves_the_old_state_as_it_was():
    env = Household()
    for index in range(30):
        state, _ = env.start(SET.build("train", index))
        for _ in range(12):
            before = pickle.dumps(state)
            for command in env.admissible(state):
                env.act(state, command)
            assert pickle.dumps(state) == before
            state, outcome = env.act(state, env.solve(state))
            if outcome.done:
                break


def test_an_episode_goes_on_after_pickling_and_after_restoring():
    env = make("trialgym/Household-v0", admissible=True)
    env.reset(options={"task": "household/test/000017"})
    for _ in range(5):
        env.step(env.expert())
    kept, twin = env.snapshot(), pickle.loads(pickle.dumps(env))
    ends = []
    for one in (env, twin):
        over, told = False, []
        while not over:
            *told[len(told) :], _ = one.step(one.expert())
            over = told[-2]
        ends.append(told)
    assert ends[0] == ends[1]
    env.restore(pickle.loads(pickle.dumps(kept)))
    assert env.turns == 5 and env.expert() == Household().solve(kept.state)


def test_equal_states_hash_equal_however_they_were_reached():
    def hash_after(*script):
        env = Household()
        env.reset(options={"task": kitchen()})
        for command in script:
            env.step(command)
        return env.state_hash()

    here = hash_after("go to desk 1")
    assert here == hash_after("go to fridge 1", "look", "nonsense", "go to desk 1", "inventory")
    round_trip = ("take apple 1 from countertop 1", "move apple 1 to countertop 1")
    assert here == hash_after("go to countertop 1", *round_trip, "go to desk 1")
    others = [
        hash_after(),
        hash_after("go to desk 1", "take egg 2 from desk 1"),
        hash_after("go to desk 1", "use desklamp 1"),
        hash_after("go to fridge 1", "open fridge 1", "go to desk 1"),
    ]
    assert len({here, *others}) == 5


# The shell, the documents and the golden episodes.


def test_gymnasiums_own_checker_has_nothing_to_say():
    check_env(gymnasium.make("trialgym/Household-v0").unwrapped)


@pytest.mark.parametrize("grammar", ["move", "put"])
def test_the_grammar_names_every_form_that_works(grammar):
    spec = Household(grammar=grammar).grammar()
    names = [tool["function"]["name"] for tool in spec.tools]
    assert len(set(names)) == len(names) == len(commands.PATTERNS)
    json.dumps(spec.tools)
    forms = {form.split("{")[0].split("`")[-1] for form in spec.grammar.split("\n- ")[1:]}
    env = Household(grammar=grammar)
    state, _ = env.start(kitchen())
    for _ in range(30):
        valid = env.admissible(state)
        for command in valid:
            assert any(command.startswith(form.split(":")[0].strip()) for form in forms)
        state, outcome = env.act(state, env.solve(state))
        if outcome.done:
            break
    assert commands.PLACING[grammar] in spec.grammar


HEADINGS = [
    "Description",
    "Action Space",
    "Observation Space",
    "Starting State",
    "Reward",
    "Episode End",
    "Information",
    "Arguments",
    "References",
    "Version History",
]


def test_the_manual_page_has_every_heading_info_key_and_option():
    manual = Household.__doc__
    found = [line.strip()[3:] for line in manual.split("\n") if line.strip().startswith("## ")]
    assert found == HEADINGS
    env = Household(admissible=True)
    _, info = env.reset(seed=1)
    page = (ROOT / "docs" / "envs" / "household.md").read_text()
    for text in (manual, page):
        assert all(f"`{key}`" in text for key in info)
        assert all(f"`{name}`" in text for name in SET.splits)
    options = Household.__init__.__kwdefaults__
    assert all(f"`{name}`" in manual and f"`{name}" in page for name in options)
    assert all(f"`{name}`" in page for name in NAMES)


def recorded(grammar):
    """Record the expert on the same twelve test tasks, every type twice."""
    env = Household(grammar=grammar, partial=True)
    for index in (*range(6), *range(12, 18)):
        observation, info = env.reset(options={"task": f"household/test/{index:06d}"})
        yield {"task": info["task_id"], "observation": observation, "hash": env.state_hash()}
        over = False
        while not over:
            action = env.expert()
            observation, reward, over, _, _ = env.step(action)
            row = {"action": action, "observation": observation, "reward": reward}
            yield row | {"hash": env.state_hash()}


@pytest.mark.parametrize("grammar", ["move", "put"])
def test_expert_episodes_are_as_recorded(grammar):
    path = GOLDEN / f"household_{grammar}.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in recorded(grammar))
    if os.environ.get("TRIALGYM_WRITE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8", newline="\n")
    assert path.read_bytes() == text.encode()
