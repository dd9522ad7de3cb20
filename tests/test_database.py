"""The database environment: grading, the expert from anywhere, states as values, its documents.

`TRIALGYM_WRITE_GOLDEN=1 pytest tests/test_database.py -k recorded` writes the golden episodes anew.
"""

import json
import os
import pickle
import warnings
from ast import literal_eval
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from random import Random
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from trialgym import make
from trialgym.core import TextEnv
from trialgym.envs.database import Database
from trialgym.envs.database_truth import truth_of
from trialgym.errors import BadInput

GOLDEN = Path(__file__).parent / "golden" / "database.jsonl"
DEV = Path(__file__).parents[1].parent / "shared" / "data" / "agentbench" / "dbbench_dev.jsonl"


@pytest.fixture
def env() -> Iterator[TextEnv[Any]]:
    env = make("trialgym/Database-v0")
    yield env
    env.close()


@pytest.fixture
def dev_file() -> Path:
    if not DEV.exists():
        pytest.skip("AgentBench's dbbench_dev.jsonl is not here")
    return DEV


def finish(env: TextEnv[Any]) -> dict[str, Any]:
    """Follow the expert to the end."""
    for _ in range(env.max_turns):
        *_, terminated, truncated, info = env.step(env.expert())
        if terminated or truncated:
            break
    return info


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_expert_looks_queries_and_answers(env: TextEnv[Any], split: str) -> None:
    for task_id in env.tasks.ids(split, 84):
        env.reset(options={"task": task_id})
        first = env.expert()
        assert first == "SQL: SELECT name, sql FROM sqlite_master"
        assert finish(env)["success"] and env.turns == 3, task_id


def test_the_expert_answers_from_what_it_saw(env: TextEnv[Any]) -> None:
    env.reset(options={"task": "database/test/000000"})
    env.step(env.expert())
    seen = env.step(env.expert())[0]
    assert [str(row[0]) for row in rows_in(seen)] == json.loads(env.expert().partition(": ")[2])


def rows_in(text: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = literal_eval(text)
    return rows


def test_the_expert_succeeds_on_every_real_task(dev_file: Path) -> None:
    env = make("trialgym/Database-v0", tasks=dev_file)
    for task_id in env.tasks.ids("all"):
        env.reset(options={"task": task_id})
        assert finish(env)["success"], task_id
    env.close()


DAMAGE = (
    "DELETE FROM {t} WHERE rowid % 3 = 1",
    "DELETE FROM {t}",
    "UPDATE {t} SET {c} = 'x'",
    "UPDATE {t} SET {c} = NULL WHERE rowid = 2",
    "INSERT INTO {t} ({c}) VALUES ('it''s \\ odd')",
    "INSERT INTO {t} ({c}) SELECT {c} FROM {t}",
)


def damage(env: TextEnv[Any], random: Random, count: int) -> int:
    """Change rows at random; give how many changes were made."""
    tables = [row[0] for row in rows_in(env.step("SQL: SELECT name FROM sqlite_master")[0])]
    done = 0
    for _ in range(count):
        table = "`" + random.choice(tables) + "`"
        rows = rows_in(env.step(f"SQL: PRAGMA table_info({table})")[0])
        column = "`" + random.choice(rows)[1] + "`"
        text = random.choice(DAMAGE).format(t=table, c=column)
        done += not env.step(f"SQL: {text}")[4]["invalid"]
    return done


def test_the_expert_repairs_what_was_damaged(env: TextEnv[Any]) -> None:
    random, done = Random(3), 0
    for task_id in env.tasks.ids("train", 56):
        env.max_turns = 40
        env.reset(options={"task": task_id})
        done += damage(env, random, 3)
        assert finish(env)["success"], task_id
    assert done > 60


def test_the_expert_repairs_the_real_tables(dev_file: Path) -> None:
    env, random, done = make("trialgym/Database-v0", tasks=dev_file, max_turns=40), Random(5), 0
    for task_id in env.tasks.ids("all", 60)[::3]:
        env.reset(options={"task": task_id})
        done += damage(env, random, 3)
        assert finish(env)["success"], task_id
    assert done > 20
    env.close()


def test_a_change_counts_only_when_it_is_right_and_answered(env: TextEnv[Any]) -> None:
    ids = [i for i in env.tasks.ids("test", 56) if env.tasks[i].data["kind"] != "SELECT"]
    for task_id in ids:
        env.reset(options={"task": task_id})
        assert env.step("Answer: []")[1] == 0
        env.reset(options={"task": task_id})
        gold = env.task.data["gold"]
        assert env.step(f"SQL: {gold}")[1:3] == (0, False)
        here = env.snapshot()
        assert env.step("Answer: []")[1:3] == (1, True)
        env.restore(here)
        env.step("SQL: DELETE FROM " + next(iter(truth_tables(env))))
        assert env.step("Answer: []")[1] == 0


def truth_tables(env: TextEnv[Any]) -> list[str]:
    rows = rows_in(env.step("SQL: SELECT name FROM sqlite_master")[0])
    return [row[0] for row in rows]


def test_running_out_of_turns_scores_nothing() -> None:
    env = make("trialgym/Database-v0", max_turns=2)
    env.reset(options={"task": "database/test/000004"})
    env.step("SQL: SELECT 1")
    _, reward, terminated, truncated, info = env.step(f"SQL: {env.task.data['gold']}")
    assert (reward, terminated, truncated, info["success"]) == (0, False, True, False)
    env.close()


def test_bad_statements_and_bad_actions_cost_a_turn_and_change_nothing(env: TextEnv[Any]) -> None:
    env.reset(options={"task": "database/test/000000"})
    before = env.state_hash()
    for action in ("", "look", "SQL: SELEC", "SQL: DROP TABLE x", "Action: Answer", "{"):
        observation, reward, _, _, info = env.step(action)
        assert info["invalid"] and observation and reward == 0
    assert env.turns == 6 and env.state_hash() == before


def test_equal_contents_have_equal_hashes_however_they_came_about(env: TextEnv[Any]) -> None:
    def hash_after(*statements: str) -> str:
        env.reset(options={"task": "database/train/000012"})
        for statement in statements:
            assert not env.step(f"SQL: {statement}")[4]["invalid"]
        return env.state_hash()

    table = "authors"
    assert "authors" in env.tasks["database/train/000012"].instruction
    start = hash_after()
    assert start == hash_after("SELECT 1", f"UPDATE {table} SET name = name")
    assert start == hash_after(
        f"INSERT INTO {table} VALUES (99, 'a', 'b', 1)", f"DELETE FROM {table} WHERE id = 99"
    )
    one, two = (f"UPDATE {table} SET born = {n} WHERE id = {n}" for n in (1, 2))
    assert hash_after(one, two) == hash_after(two, one) != start


def test_forks_and_pickles_in_mid_episode_go_their_own_ways(env: TextEnv[Any]) -> None:
    env.reset(options={"task": "database/train/000012"})
    env.step("SQL: DELETE FROM authors WHERE id = 1")
    here, copy = env.snapshot(), pickle.loads(pickle.dumps(env))
    assert copy.state_hash() == env.state_hash()
    env.step("SQL: DELETE FROM authors")
    assert copy.step("SQL: SELECT min(id) FROM authors")[0] == "[(2,)]"
    env.restore(pickle.loads(pickle.dumps(here)))
    assert env.step("SQL: SELECT min(id) FROM authors")[0] == "[(2,)]"
    copy.close()


def test_gymnasiums_own_checker_has_nothing_to_say() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("trialgym/Database-v0", disable_env_checker=True).unwrapped
        check_env(env)
        env.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grader": "lenient"}, "strict, v0.2, fc"),
        ({"statement_time": 0}, "0.01 to 60"),
        ({"max_turns": 0}, "at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make("trialgym/Database-v0", **options)


def test_the_truth_of_a_task_is_found_once(env: TextEnv[Any]) -> None:
    task = env.tasks["database/test/000000"]
    assert truth_of(task) is truth_of(env.tasks["database/test/000000"])
    assert truth_of(task).values is truth_of(task).values


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


def test_the_manual_page_has_every_heading_info_key_and_option() -> None:
    manual = str(Database.__doc__)
    found = [line.strip()[3:] for line in manual.split("\n") if line.strip().startswith("## ")]
    assert found == HEADINGS
    env = Database(admissible=True)
    _, info = env.reset(seed=0)
    for name in (*info, *signature(Database).parameters):
        assert f"`{name}`" in manual, name
    env.close()


SCRIPT = ("hello", "SQL: SELECT nothing", "SQL: ATTACH 'x' AS y", "SQL: SELECT 1, 'a', NULL, 2.5")


def test_episodes_are_as_recorded(env: TextEnv[Any]) -> None:
    lines = []
    for task_id in env.tasks.ids("test", 28):
        observation, _ = env.reset(options={"task": task_id})
        lines.append({"task": task_id, "observation": observation, "hash": env.state_hash()})
        script = list(SCRIPT if task_id.endswith("0") else ())
        over = False
        while not over:
            action = script.pop(0) if script else env.expert()
            observation, reward, over, _, _ = env.step(action)
            lines.append({
                "action": action, "observation": observation, "reward": reward,
                "hash": env.state_hash(),
            })  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if os.environ.get("TRIALGYM_WRITE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")
