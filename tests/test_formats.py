"""The parser accepts every surface, and any text at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialgym.agents.formats import FORMATS, format_of
from trialgym.errors import UnknownId
from trialgym.registry import make

REACT, ACT = FORMATS["react"], FORMATS["act"]

SURFACES = {
    "Thought: x\nAction: go to cabinet 3": ("go to cabinet 3", "x"),
    "Thought: I see it. Action: go to cabinet 3": ("go to cabinet 3", "I see it."),
    "Thought:\nlook first\n\nAction:\nclick[buy now]": ("click[buy now]", "look first"),
    "THOUGHT: hm\nACTION: open fridge 1": ("open fridge 1", "hm"),
    "Think: hm\nAct: open fridge 1": ("open fridge 1", "hm"),
    "Think: hm\n\nAct: look\n": ("look", "hm"),
    "<think>hm\nhm</think>\n<action>look</action>": ("look", "hm\nhm"),
    "hm</think>Action: look": ("look", "hm"),
    "draft <action>a</action> no, <action>b</action>": ("b", "draft <action>a</action> no,"),
    "Thought: x\nAction: Operation\n```sql\nSELECT a\nFROM b;\n```\n": (
        "SQL: SELECT a\nFROM b;",
        "x",
    ),
    'Action: Answer\nFinal Answer: ["a", "b"]': ('Answer: ["a", "b"]', ""),
    'I know.\nFinal Answer: ["7"]': ('Answer: ["7"]', "I know."),
    '{"name": "execute_sql", "arguments": {"query": "SELECT 1"}}': ("SQL: SELECT 1", ""),
    '{"function": {"name": "execute_sql", "arguments": "{\\"query\\": \\"SELECT 1\\"}"}}': (
        "SQL: SELECT 1",
        "",
    ),
    'hm\n<tool_call>\n{"name": "commit_final_answer", "arguments": {"answers": ["a", 2]}}\n'
    "</tool_call>": ('Answer: ["a", "2"]', "hm"),
    '```json\n{"name": "take_action", "arguments": {"action": "look"}}\n```': ("look", ""),
    "<think>t</think><sql>SELECT 1</sql>": ("SQL: SELECT 1", "t"),
    "<solution>SELECT 1</solution>": ("Answer: SELECT 1", ""),
    '<answer>["4"]</answer>': ('Answer: ["4"]', ""),
    "so \\boxed{a{b}c}": ("a{b}c", "so"),
    "SQL: SELECT a\nFROM b": ("SQL: SELECT a\nFROM b", ""),
    "Thought: t\nAction: SQL: SELECT a\nFROM b\nObservation: 3 rows": (
        "SQL: SELECT a\nFROM b",
        "t",
    ),
    "Action:\n```sql\nSELECT 1\n```": ("SQL: SELECT 1", ""),
    'Answer: ["x"]': ('Answer: ["x"]', ""),
    "Action: a\nObservation: made up\nAction: b": ("a", ""),
    "Action: look\nI will see what is there.": ("look", ""),
}


@pytest.mark.parametrize("text", SURFACES)
@pytest.mark.parametrize("name", FORMATS)
def test_each_surface_gives_its_action_and_thought_in_every_format(name: str, text: str) -> None:
    parsed = FORMATS[name].parse(text)
    assert (parsed.action, parsed.thought, parsed.problem) == (*SURFACES[text], "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "Action:",
        "Action: \n\n",
        "Action: Operation\nSELECT 1",
        "Action: Answer",
        "Action: Answer\nObservation: x",
        "<action> </action>",
        '{"name": "execute_sql"}',
        '{"name": "execute_sql", "arguments": {"query": 3}}',
        '{"name": "rm", "arguments": {}}',
        '{"name": ',
        "[" * 100_000,
        "{" + '"a":{' * 50_000,
        "\\boxed{",
        "<think>never closed, so no action",
    ],
)
def test_a_reply_without_an_action_says_what_was_wanted(text: str) -> None:
    parsed = REACT.parse(text)
    assert parsed.action is None
    assert REACT.instructions in parsed.problem


def test_a_bare_reply_is_an_action_only_where_the_format_says_so() -> None:
    assert ACT.parse(" go to bed 1\n").action == "go to bed 1"
    assert REACT.parse("go to bed 1").action is None


PIECES = [
    "Action:", "ACTION:", "Act: ", "Thought:", "Operation", "Answer", "Final Answer:", "```sql",
    "```", "<action>", "</action>", "<sql>", "</sql>", "<think>", "</think>", "<tool_call>", "{",
    "}", '"name"', ":", "\\boxed{", "\n", " ", "\x00", "SQL:", "x", "🙂",
]  # fmt: skip


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_any_text_is_parsed_and_is_either_an_action_or_a_problem(text: str) -> None:
    for form in FORMATS.values():
        parsed = form.parse(text)
        assert (parsed.action is None) == bool(parsed.problem)
        assert parsed.action is None or parsed.action == parsed.action.strip() != ""


LINES = st.from_regex(r"\A[a-z0-9 .,\[\]()\"'é中:-]{1,40}\Z").map(str.strip).filter(bool)


@given(thought=st.text(), action=LINES)
def test_what_react_renders_parses_back(thought: str, action: str) -> None:
    if action in ("operation", "answer") or action.startswith("sql:"):
        return
    parsed = REACT.parse(REACT.render(thought, action))
    assert parsed.action == action


@given(thought=LINES, statement=st.lists(LINES, min_size=1).map("\n".join))
def test_statements_of_several_lines_and_plain_thoughts_parse_back(
    thought: str, statement: str
) -> None:
    if any(line.split(":")[0].strip() in MARKERS for line in [thought, *statement.split("\n")]):
        return
    for form in FORMATS.values():
        parsed = form.parse(form.render(thought, f"SQL: {statement}"))
        assert parsed.action == f"SQL: {statement}"
        assert parsed.thought == (" ".join(thought.split()) if form.thoughts else "")


MARKERS = {"thought", "think", "action", "act", "observation", "final answer", "sql", "answer"}


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_of_one_piece_is_read_in_one_go(piece: str) -> None:
    """Would take minutes if any pattern backtracked, or any surface read the text twice a hit."""
    FORMATS["act"].parse(piece * (1_000_000 // len(piece)))
    FORMATS["act"].parse(piece * (500_000 // len(piece)) + "Action: x")


@pytest.mark.parametrize("env", ["trialgym/Household-v0", "trialgym/Database-v0"])
def test_what_each_environments_expert_does_parses_back(env: str) -> None:
    world = make(env)
    for task in world.tasks.ids("train", 25):
        world.reset(options={"task": task})
        over = False
        while not over:
            action = world.expert()
            for form in FORMATS.values():
                assert form.parse(form.render("Action: is what I think", action)).action == action
            _, _, ended, truncated, _ = world.step(action)
            over = ended or truncated
    world.close()


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UnknownId, match="did you mean `react`"):
        format_of("reakt")
