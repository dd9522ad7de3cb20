"""Every surface of an action, and that any text at all gives an action or a mend."""

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialgym.envs.database_actions import Answer, Statement, Unclear, parse, read_literal
from trialgym.envs.database_dialect import from_mysql

QUERY = "SELECT a\nFROM t"


@pytest.mark.parametrize(
    "text",
    [
        f"SQL: {QUERY}",
        f"sql:{QUERY}\n",
        f"SQL:\n```sql\n{QUERY}\n```",
        f"```sql\n{QUERY}\n```",
        f"Action: Operation\n```sql\n{QUERY}\n```",
        f"I will look.\nAction: Operation\n```sql\n{QUERY}\n```\nand wait",
        json.dumps({"name": "execute_sql", "arguments": {"query": QUERY}}),
        json.dumps({"name": "execute_sql", "arguments": json.dumps({"query": QUERY})}),
        "```json\n" + json.dumps({"name": "execute_sql", "arguments": {"query": QUERY}}) + "\n```",
    ],
)
def test_statements_are_read_from_every_surface(text: str) -> None:
    assert parse(text) == Statement(QUERY)


@pytest.mark.parametrize(
    "text",
    [
        'Answer: ["a", "1"]',
        "answer: ['a', '1']",
        'Final Answer: ["a", "1"]',
        "Answer: ('a', '1',)",
        'Action: Answer\nFinal Answer: ["a", "1"]',
        'Thinking.\nAction: Answer\nFinal Answer: [\n"a",\n"1"]',
        json.dumps({"name": "commit_final_answer", "arguments": {"answers": ["a", "1"]}}),
    ],
)
def test_answers_are_read_from_every_surface(text: str) -> None:
    parsed = parse(text)
    assert isinstance(parsed, Answer) and parsed.values == ("a", "1")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "SQL:"),
        ("look around", "SQL:"),
        ("SQL:", "empty"),
        ("SQL: ```sql\n```", "empty"),
        ("SQL: select '\0'", "NUL"),
        ("Action: Operation\nSELECT 1", "block"),
        ("Action: Answer\n42", "Final Answer"),
        ("{", "JSON"),
        ('{"name": "rm"}', "execute_sql"),
        ('{"name": "execute_sql", "arguments": {"query": 1}}', "query"),
        ('{"name": "execute_sql", "arguments": [1]}', "query"),
        ('{"name": "commit_final_answer", "arguments": {"answers": [["a"]]}}', "answers"),
        ('{"name": "commit_final_answer", "arguments": {"answers": [NaN]}}', "NaN"),
        ('{"a":' * 19_000, "JSON"),
        ("Answer: " + "x" * 10_001, "10001"),
    ],
)
def test_what_is_no_action_says_how_to_mend_it(text: str, word: str) -> None:
    parsed = parse(text)
    assert isinstance(parsed, Unclear) and word in parsed.mend


@pytest.mark.parametrize(
    "text",
    ["[" * 9000, "(" * 9999, "-" * 9999, "'" * 9999, "[1," * 3000, '["\\', "1" * 9999, "[[[[1]]]]"],
)
def test_answers_that_would_strain_a_parser_are_taken_as_text(text: str) -> None:
    parsed = parse(f"Answer: {text}")
    assert parsed == Answer((text.strip(),), text.strip())


def test_an_answer_is_never_evaluated() -> None:
    parsed = parse("Answer: [__import__('os').getcwd()]")
    assert parsed == Answer(("[__import__('os').getcwd()]",), "[__import__('os').getcwd()]")


WORDS = ("SQL:", "Answer:", "Action: Operation\n", "Action: Answer\n", "Final Answer:", "```sql\n")
QUOTES = ("```", '{"name": "execute_sql", ', '"arguments": ', *"[]()'\"\\,\0")
PIECES = st.sampled_from((*WORDS, *QUOTES))


@given(st.lists(PIECES | st.text(max_size=6), max_size=12).map("".join))
def test_any_text_gives_an_action_or_a_mend(text: str) -> None:
    parsed = parse(text)
    assert isinstance(parsed, (Answer, Statement)) or parsed.mend
    if isinstance(parsed, Statement):
        from_mysql(parsed.sql)


PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = PLAIN | st.integers(-(10**12), 10**12) | st.booleans() | st.none()


@given(st.lists(SCALARS | st.tuples(SCALARS), max_size=5))
def test_pythons_own_literals_are_read_as_python_reads_them(values: list[object]) -> None:
    assert read_literal(repr(values)) == ast.literal_eval(repr(values)) == values


@given(st.lists(PLAIN, max_size=5))
def test_answers_written_as_json_are_read_back(values: list[str]) -> None:
    for escaped in (True, False):
        parsed = parse(f"Answer: {json.dumps(values, ensure_ascii=escaped)}")
        assert isinstance(parsed, Answer) and parsed.values == tuple(values)


@pytest.mark.parametrize(
    ("mysql", "sqlite"),
    [
        ("show tables;", "SELECT name FROM sqlite_master WHERE type = 'table'"),
        ("DESCRIBE `a b`", "PRAGMA table_info(`a b`)"),
        ("SELECT 'Don\\'t', \"a\\\"b\"", "SELECT 'Don''t', \"a\"\"b\""),
        ("SELECT 'a\\nb\\\\'", "SELECT 'a\nb\\'"),
        (
            "INSERT INTO 2020_results VALUES (1, 2e5, 0xff)",
            "INSERT INTO `2020_results` VALUES (1, 2e5, 0xff)",
        ),
        ("SELECT `4th` FROM t # 5th", "SELECT `4th` FROM t -- 5th"),
        ("SELECT '5th' -- 6th", "SELECT '5th' -- 6th"),
        ("SELECT 1.5, t.a FROM t", "SELECT 1.5, t.a FROM t"),
    ],
)
def test_mysqls_manners_are_put_into_sqlites(mysql: str, sqlite: str) -> None:
    assert from_mysql(mysql) == sqlite
