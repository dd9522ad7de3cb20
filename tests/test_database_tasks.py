"""Generated database tasks: the same everywhere, disjoint, clear, and not to be guessed."""

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from trialgym.core import Task
from trialgym.envs.database_changes import CHANGES
from trialgym.envs.database_domains import DOMAINS
from trialgym.envs.database_grading import TABLE, Answer
from trialgym.envs.database_image import digest, rows_of
from trialgym.envs.database_questions import QUERIES
from trialgym.envs.database_tasks import KINDS, DatabaseTasks
from trialgym.envs.database_truth import truth_of
from trialgym.errors import BadInput, UnknownId

TASKS = DatabaseTasks()


@pytest.fixture(scope="module")
def many() -> list[Task]:
    return [TASKS.build("train", index) for index in range(500)]


def test_tasks_are_the_same_in_another_process_and_order() -> None:
    code = (
        "import hashlib; from trialgym.envs.database_tasks import DatabaseTasks as D; t = D();"
        "ids = [t.build(s, i) for s in t.splits for i in (28, 3, 0)];"
        "print(hashlib.md5(repr([(x, t.content(x)) for x in ids]).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_splits_share_no_content() -> None:
    found: dict[str, set[str]] = {}
    for split in TASKS.splits:
        found[split] = {TASKS.content(TASKS.build(split, i)) for i in range(200)}
        assert len(found[split]) == 200
    assert not found["train"] & found["test"] | found["train"] & found["validation"]
    assert not found["test"] & found["validation"]


def test_every_template_level_kind_and_domain_occurs(many: list[Task]) -> None:
    templates = [t for level in QUERIES.values() for t in level]
    templates += [t for levels in CHANGES.values() for level in levels.values() for t in level]
    assert {t.__name__ for t in templates} == {task.data["template"] for task in many}
    assert {task.data["domain"] for task in many} == {domain.name for domain in DOMAINS}
    for index, task in enumerate(many):
        assert task.data["level"] == 1 + index % 4
        assert task.data["kind"] == KINDS[index // 4 % len(KINDS)]


def test_the_gold_is_nowhere_in_what_the_agent_is_told(many: list[Task]) -> None:
    for task in many:
        assert task.data["gold"] not in task.instruction


def test_every_change_changes_something_and_every_question_has_an_answer(
    many: list[Task],
) -> None:
    for task in many:
        truth = truth_of(task)
        if truth.mutation:
            assert digest(truth.image) != digest(truth.gold_image), task.id
        else:
            assert 0 < len(truth.values) <= 8 and None not in truth.values, task.id


def test_rankings_have_no_ties(many: list[Task]) -> None:
    """Without its LIMIT, a ranking's first values differ: found by sorting outside of SQL."""
    seen = 0
    for task in many:
        gold = task.data["gold"]
        if "ORDER BY" not in gold or task.data["template"] not in ("extreme", "nth"):
            continue
        seen += 1
        field = gold.split("ORDER BY ")[1].split()[0]
        table = gold.split("FROM ")[1].split()[0]
        (name,) = truth_of(task).values
        rows = rows_of(truth_of(task).image, f"SELECT * FROM {table}")
        columns = [row[1] for row in rows_of(truth_of(task).image, f"PRAGMA table_info({table})")]
        measures = Counter(row[columns.index(field)] for row in rows)
        (value,) = (row[columns.index(field)] for row in rows if name in row)
        assert measures[value] == 1, task.id
    assert seen > 10


def test_an_agent_that_does_not_look_scores_next_to_nothing(many: list[Task]) -> None:
    """Also when it knows the most frequent answer of all the tasks."""
    truths = [truth_of(task) for task in many]
    known = [(truth.values, truth.label) for truth in truths if not truth.mutation]
    untouched = [truth for truth in truths if truth.mutation][:60]
    assert not any(t.tables(x.image, x.gold_image, None) for x in untouched for t in TABLE.values())
    best = Counter(label for _, label in known).most_common(1)[0][0]
    constants: list[tuple[Any, ...]] = [best, (), ("0",), ("1",), ("",), ("none",)]
    for answer in map(Answer, constants):
        for name, grader in TABLE.items():
            right = sum(
                grader.answer(answer, v if name == "strict" else label) for v, label in known
            )
            assert right < 0.05 * len(many), (answer, name, right)


def test_ids_outside_of_the_splits_are_refused() -> None:
    with pytest.raises(BadInput, match="1000 tasks"):
        TASKS["database/test/001000"]
    with pytest.raises(UnknownId, match="did you mean `train`"):
        TASKS["database/trian/000000"]
