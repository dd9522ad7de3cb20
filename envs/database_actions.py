"""From an agent's text to a statement or an answer. Total: any text gives an action or a mend."""

import json
import re
from dataclasses import dataclass
from typing import Any

from trialgym.core import ActionSpec

Scalar = str | int | float | bool | None
LONGEST_ANSWER = 10_000
DEEPEST = 3
"""Levels of brackets that an answer may have."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Run this SQL."""

    sql: str


@dataclass(frozen=True, slots=True)
class Answer:
    """End the episode with these values."""

    values: tuple[Any, ...]
    text: str | None = None
    """What the values were read from, where the agent wrote text; the v0.2 grader reads it anew."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """No action; the text says how to mend it."""

    mend: str


Action = Statement | Answer | Unclear

FORMS = 'Write one of\nSQL: <one statement>\nAnswer: ["<value>", "<value>", ...]'
GRAMMAR = (
    "One action a turn, one of:\n"
    "SQL: <statement>    runs one SQL statement (SELECT, INSERT, UPDATE or DELETE) and shows the "
    "rows of its result as a list of tuples\n"
    'Answer: ["<value>", ...]    gives the final answer, a list of values, and ends the episode; '
    "after a change to the database any list will do\n"
    "The tables are listed by: SQL: SELECT name, sql FROM sqlite_master"
)


def _tool(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = (
    _tool(
        "execute_sql",
        "Run one SQL statement and see the rows of its result.",
        {"query": {"type": "string", "description": "One SQL statement."}},
    ),
    _tool(
        "commit_final_answer",
        "Give the final answer and end the episode; after a change to the database any list will "
        "do.",
        {"answers": {"type": "array", "items": {"type": "string"}}},
    ),
)
SPEC = ActionSpec(GRAMMAR, TOOLS)

_FENCE = re.compile(r"```[ \t]*(\w*)[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_OURS = re.compile(r"\s*(sql|(?:final )?answer)[ \t]*:(.*)", re.DOTALL | re.IGNORECASE)
_AGENTBENCH = re.compile(r"(?:^|\n)[ \t]*action[ \t]*:[ \t]*(operation|answer)\b", re.IGNORECASE)
_FINAL = re.compile(r"final answer[ \t]*:(.*)", re.DOTALL | re.IGNORECASE)


def parse(text: str) -> Action:
    """Read an action in any of the surfaces of the environment's documentation."""
    stripped = text.strip()
    if stripped.startswith("{"):
        return _tool_call(stripped)
    ours = _OURS.match(text)
    if ours:
        verb, rest = ours[1].lower(), ours[2]
        return _statement(_unfenced(rest)) if verb == "sql" else _answer(rest)
    found = _AGENTBENCH.search(text)
    if found:
        return _agentbench(found[1].lower(), text[found.end() :])
    fence = _FENCE.match(stripped)
    if fence and fence[1].lower() == "sql":
        return _statement(fence[2])
    if fence and fence[1].lower() == "json" and fence[2].strip().startswith("{"):
        return _tool_call(fence[2].strip())
    return Unclear(f"No action was found. {FORMS}")


def _agentbench(verb: str, rest: str) -> Action:
    if verb == "operation":
        fence = _FENCE.search(rest)
        if fence:
            return _statement(fence[2])
        return Unclear("`Action: Operation` needs the statement after it, in a ```sql block.")
    final = _FINAL.search(rest)
    if final:
        return _answer(final[1])
    return Unclear('`Action: Answer` needs `Final Answer: ["<value>", ...]` after it.')


def _unfenced(text: str) -> str:
    fence = _FENCE.match(text.strip())
    return fence[2] if fence else text


def _statement(sql: str) -> Action:
    sql = sql.strip()
    if "\0" in sql:
        return Unclear("The statement holds a NUL character; leave it out.")
    return Statement(sql) if sql else Unclear(f"The statement is empty. {FORMS}")


def _answer(text: str) -> Action:
    text = text.strip()
    if len(text) > LONGEST_ANSWER:
        return Unclear(f"The answer has {len(text)} characters; at most {LONGEST_ANSWER} are read.")
    try:
        value = read_literal(text)
    except ValueError:
        return Answer((text,), text)
    return Answer(tuple(value) if isinstance(value, (list, tuple)) else (value,), text)


def _tool_call(text: str) -> Action:
    try:
        call = json.loads(text, parse_constant=_no_constant)
        arguments = call.get("arguments")
        if isinstance(arguments, str):
            arguments = json.loads(arguments, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return Unclear(f"The tool call is no JSON object: {str(error)[:200]}. {FORMS}")
    if call.get("name") not in ("execute_sql", "commit_final_answer"):
        return Unclear("Unknown tool; call `execute_sql` or `commit_final_answer`.")
    if call["name"] == "execute_sql":
        query = arguments.get("query") if isinstance(arguments, dict) else None
        if isinstance(query, str):
            return _statement(query)
        return Unclear('`execute_sql` takes {"query": "<one statement>"}.')
    answers = arguments.get("answers") if isinstance(arguments, dict) else None
    if isinstance(answers, list) and all(_is_scalar(value) for value in answers):
        return Answer(tuple(answers))
    return Unclear('`commit_final_answer` takes {"answers": ["<value>", ...]}.')


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float))


# Literals: a hand-written reader, since Python's own parser warns, recurses and may run out of
# memory on hostile text.

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<number>[+-]?(?:\d{1,300}\.?\d{0,300}|\.\d{1,300})(?:[eE][+-]?\d{1,4})?)(?![\w.])
    | (?P<word>None|True|False|null|true|false)(?!\w)
    | (?P<mark>[\[\](),])
    )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_ESCAPE = re.compile(
    r"\\(?:u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))",
    re.DOTALL,
)
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\n": ""}
_PLAIN |= {letter: letter for letter in "\\'\"/"}


def read_literal(text: str) -> Any:
    """Read a string, number or word, or a list or tuple of such, as Python or JSON writes them.

    Raises:
        ValueError: the text is nothing of the kind, or has more than three levels of brackets.
    """
    tokens = []
    position, text = 0, text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            raise ValueError(f"no literal at character {position}")
        tokens.append((found.lastgroup, found[found.lastgroup or 0]))
        position = found.end()
    value, end = _value(tokens, 0, 0)
    if end != len(tokens):
        raise ValueError("text after the literal")
    return value


def _value(tokens: list[tuple[str | None, str]], place: int, depth: int) -> tuple[Any, int]:
    if place >= len(tokens):
        raise ValueError("the literal is not finished")
    kind, raw = tokens[place]
    if kind == "text":
        return _PAIR.sub(_join, _ESCAPE.sub(_unescape, raw[1:-1])), place + 1
    if kind == "number":
        return (int(raw) if raw.lstrip("+-").isdigit() else float(raw)), place + 1
    if kind == "word":
        return _WORDS[raw], place + 1
    if raw not in "[(" or depth >= DEEPEST:
        raise ValueError("brackets do not fit, or are too deep")
    return _sequence(tokens, place, depth)


def _sequence(tokens: list[tuple[str | None, str]], place: int, depth: int) -> tuple[Any, int]:
    start, close = place, ("mark", "]" if tokens[place][1] == "[" else ")")
    items: list[Any] = []
    place += 1
    while place < len(tokens) and tokens[place] != close:
        item, place = _value(tokens, place, depth + 1)
        items.append(item)
        if place < len(tokens) and tokens[place] == ("mark", ","):
            place += 1
        elif place >= len(tokens) or tokens[place] != close:
            raise ValueError("a comma or bracket is missing")
    if place >= len(tokens):
        raise ValueError("the list is not closed")
    if close[1] == "]":
        return items, place + 1
    if len(items) == 1 and tokens[place - 1] != ("mark", ",") and place - start > 1:
        return items[0], place + 1  # (x) is x, as in Python
    return tuple(items), place + 1


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    return chr(int(code, 16)) if code else _PLAIN.get(found[4], found[0])


def _join(found: re.Match[str]) -> str:
    """Put together what JSON writes as two halves."""
    return found[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")
