"""The three graders on answers and tables: AgentBench's verdicts kept, its holes not."""

import hashlib
import json
from pathlib import Path

import pytest

from trialgym import make
from trialgym.envs.database_actions import Answer, parse
from trialgym.envs.database_files import AgentBenchTasks, disagreements
from trialgym.envs.database_grading import TABLE, table_hash, typed

DEV = Path(__file__).parents[1].parent / "shared" / "data" / "agentbench" / "dbbench_dev.jsonl"


@pytest.fixture
def dev_file() -> Path:
    if not DEV.exists():
        pytest.skip("AgentBench's dbbench_dev.jsonl is not here")
    return DEV


@pytest.mark.parametrize(
    ("label", "text", "v02", "fc", "strict"),
    [
        (["7"], '["7"]', True, True, True),
        (["7"], "[7]", True, True, True),
        (["7"], "7", True, True, True),
        (["7.0"], '["7"]', True, True, True),
        (["7"], '["7.004"]', False, True, False),
        (["7.25"], '["7.2512"]', False, True, True),
        (["7.25"], '["7.27"]', False, False, False),
        (["1,000"], '["1000"]', False, True, False),
        (["12%"], '["12"]', False, True, False),
        (["0"], '["none"]', False, True, False),
        (["0"], '[""]', False, True, False),
        (["0"], "[None]", False, True, False),
        (["none"], '["none"]', True, True, True),
        (["Ann"], '["Ann"]', True, True, True),
        (["Ann"], '["ann"]', False, False, False),
        (["Ann"], "Ann", True, True, True),
        (["Ann"], '"Ann"', False, True, True),
        (["a", "b"], '["b", "a"]', True, True, True),
        (["a", "b"], '["a", "b", "b"]', True, True, False),
        (["a", "a", "b"], '["a", "b"]', True, True, False),
        (["a", "b"], '["a"]', False, False, False),
        (["1", "2"], "[1, 2]", False, True, True),
        (["1", "2"], "[1, 1, 2]", False, False, False),
        (["a", "b"], "[('a',), ('b',)]", False, False, True),
        (["a"], "[]", False, False, False),
        (["a"], "__import__('os')", False, False, False),
    ],
)
def test_each_grader_has_its_verdict(
    label: list[str], text: str, v02: bool, fc: bool, strict: bool
) -> None:
    answer = parse(f"Answer: {text}")
    assert isinstance(answer, Answer)
    found = [
        TABLE["v0.2"].answer(answer, label),
        TABLE["fc"].answer(answer, label),
        TABLE["strict"].answer(answer, typed(label)),
    ]
    assert found == [v02, fc, strict]


def test_text_that_looks_like_a_number_is_compared_as_text_where_the_truth_is_text() -> None:
    strict = TABLE["strict"].answer
    assert strict(Answer(("007",)), ["007"])
    assert not strict(Answer(("7",)), ["007"])
    assert strict(Answer(("7.00",)), [7])
    assert not strict(Answer(("7.01",)), [7])
    assert not strict(Answer(("nan",)), [7.5])
    assert not strict(Answer(("9" * 400,)), [7])


def test_the_table_hash_is_mysqls() -> None:
    # md5(group_concat(substr(md5(concat_ws(',', ...)), 1, 5) order by 1)), written out by hand.
    rows = [("b", None, "x"), ("a", "1", "y")]
    parts = sorted(hashlib.md5(line).hexdigest()[:5] for line in (b"b,x", b"a,1,y"))
    assert table_hash(rows) == hashlib.md5(",".join(parts).encode()).hexdigest()
    assert table_hash([]) is None


def test_rows_past_mysqls_limit_do_not_count_in_the_table_hash_but_do_when_strict() -> None:
    def short(word: str) -> str:
        return hashlib.md5(word.encode()).hexdigest()[:5]

    words = sorted(map(str, range(400)), key=short)
    first, last = [(word,) for word in words[:-1]], [(word,) for word in words]
    assert table_hash(first) == table_hash(last)
    assert table_hash(last) != table_hash(last[1:])


def test_every_recorded_hash_is_that_of_its_gold_statement(dev_file: Path) -> None:
    tasks = AgentBenchTasks(dev_file)
    assert sum(task.data["answer_md5"] is not None for task in tasks) == 40
    assert disagreements(tasks) == []


@pytest.mark.parametrize("grader", ["v0.2", "fc", "strict"])
def test_gold_statements_and_labels_of_the_real_file_succeed(dev_file: Path, grader: str) -> None:
    env = make("trialgym/Database-v0", tasks=dev_file, grader=grader)
    lines = [json.loads(line) for line in dev_file.read_text(encoding="utf-8").splitlines()]
    for task_id, line in zip(env.tasks.ids("all"), lines, strict=True):
        observation, _ = env.reset(options={"task": task_id})
        assert observation == f"{line['description']}\n{line['add_description']}"
        answer = line["label"]
        if line["type"][0] in ("INSERT", "UPDATE"):
            block = f"Action: Operation\n```sql\n{line['label'][0]}\n```"
            _, reward, terminated, _, info = env.step(block)
            assert (reward, terminated, info["invalid"]) == (0, False, False)
            answer = ["whatever"]
        text = f"Action: Answer\nFinal Answer: {json.dumps(answer)}"
        _, reward, terminated, _, info = env.step(text)
        assert (reward, terminated, info["success"]) == (1, True, True), task_id
    env.close()


@pytest.mark.parametrize("grader", ["v0.2", "fc", "strict"])
def test_doing_nothing_to_the_real_tables_fails(dev_file: Path, grader: str) -> None:
    env = make("trialgym/Database-v0", tasks=dev_file, grader=grader)
    for task_id in env.tasks.ids("all", 40, start=20):
        env.reset(options={"task": task_id})
        *_, info = env.step("Answer: []")
        assert not info["success"], task_id
    env.close()
