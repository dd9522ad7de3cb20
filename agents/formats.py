r"""Formats: how a thought and an action become a reply, and how any reply becomes an action.

There is one parser for every format. It is total (any text gives a `Parsed`, never an exception)
and takes time linear in the text. Tried in this order, the first surface that is there wins:

1. a line that begins with `Action:`, `ACTION:` or `Act:`; `Operation` and `Answer` after it mean
   what AgentBench's database task means by them;
2. tags: `<action>`, `<sql>`, `<answer>`, `<solution>`;
3. a tool call in JSON, bare, fenced or in `<tool_call>`: `{"name": …, "arguments": {…}}`;
4. `Action:` within a line; a line that begins with `Final Answer:`, `SQL:` or `Answer:`;
5. `\boxed{…}`;
6. in the format `act`, the whole reply.

What stands in `<think>…</think>` at the start is thought. Of several tags or boxes the last counts,
because drafts come first. Of several markers the first counts, because what follows it are turns
that the model made up.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trialgym.errors import UnknownId


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a reply says."""

    action: str | None
    """What the environment is sent, without thoughts; None when there is no action."""
    thought: str = ""
    problem: str = ""
    """Observation for a reply without an action: what was wanted."""


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write replies."""

    name: str
    instructions: str
    """What the system prompt says about replies."""
    thoughts: bool
    """Whether a reply carries the thought."""
    bare: bool
    """Whether a reply without any marker is an action as a whole."""

    def render(self, thought: str, action: str) -> str:
        """Write a reply; the thought takes one line, so that none of it reads as an action."""
        if not self.thoughts:
            return action
        thought = " ".join(thought.replace("</think>", " ").split())
        return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"

    def parse(self, text: str) -> Parsed:
        """Find the action in any text."""
        thought, rest = _split_thinking(text)
        marks = _marks(rest)
        for surface in _SURFACES:
            found = surface(rest, marks)
            if found is None:
                continue
            action = found.action.strip() if found.action else ""
            if not action:
                return Parsed(None, thought or found.thought, self._problem(found.problem))
            return Parsed(action, thought or found.thought)
        if self.bare and rest.strip():
            return Parsed(rest.strip(), thought)
        return Parsed(None, thought or rest.strip(), self._problem(""))

    def _problem(self, detail: str) -> str:
        return f"{detail or 'The reply holds no action.'} {self.instructions}"


FORMATS = {
    "react": Format(
        "react",
        "Reply with one thought and one action, in two lines:\n"
        "Thought: <your reasoning>\nAction: <one action>",
        thoughts=True,
        bare=False,
    ),
    "act": Format("act", "Reply with one action and nothing else.", thoughts=False, bare=True),
}


def format_of(name: str) -> Format:
    """Give a format by name.

    Raises:
        UnknownId: there is no format of that name.
    """
    if name not in FORMATS:
        raise UnknownId("format", name, FORMATS)
    return FORMATS[name]


@dataclass(frozen=True, slots=True)
class _Found:
    action: str | None
    thought: str = ""
    problem: str = ""


# Every pattern starts with a literal or a line's start and repeats only classes that cannot match
# what follows them, so that matching is linear.
_MARKER = re.compile(
    r"^[ \t]*(thought|think|action|act|observation|final answer|sql|answer)[ \t]*:[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_INLINE_ACTION = re.compile(r"(?<=\s)(Action|ACTION)[ \t]*:")
_FENCE = re.compile(r"```([A-Za-z]*)[ \t]*\n?")
_KINDS = {"think": "thought", "act": "action"}


def _split_thinking(text: str) -> tuple[str, str]:
    """Take a leading `<think>…</think>` off; an unclosed one is all thought."""
    body = text.lstrip()
    opened = body.startswith("<think>")
    # Some models' templates open the tag in the prompt, so that only its end is in the reply.
    thought, closed, rest = body.removeprefix("<think>").partition("</think>")
    if not (opened or closed):
        return "", text
    return thought.strip(), rest


_TAGS: dict[str, str] = {"action": "", "sql": "SQL: ", "answer": "Answer: ", "solution": "Answer: "}


def _from_tags(text: str, marks: "_Marks") -> _Found | None:
    best: tuple[int, str, str] | None = None
    for tag, prefix in _TAGS.items():
        end = text.rfind(f"</{tag}>")
        start = text.rfind(f"<{tag}>", 0, end) if end >= 0 else -1
        if start >= 0 and (best is None or start > best[0]):
            best = (start, prefix, text[start + len(tag) + 2 : end].strip())
    if best is None:
        return None
    start, prefix, body = best
    if not body:
        return _Found(None, problem="The action's tag is empty.")
    return _Found(prefix + _unfenced(body, sql=prefix == "SQL: "), text[:start].strip())


def _from_tool_call(text: str, marks: "_Marks") -> _Found | None:
    body, thought = text.strip(), ""
    start = text.rfind("<tool_call>")
    if start >= 0:
        body = text[start + 11 :].partition("</tool_call>")[0].strip()
        thought = text[:start].strip()
    elif body.startswith("```"):
        body = _unfenced(body, sql=False)
    if not body.startswith("{"):
        return None if start < 0 else _Found(None, problem="The tool call is no JSON object.")
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return _Found(None, problem="The tool call is no valid JSON.")
    return _called(call, thought)


def _called(call: dict[str, Any], thought: str) -> _Found:
    inner = call.get("function", call)
    name = inner.get("name") if isinstance(inner, dict) else None
    arguments = inner.get("arguments") if isinstance(inner, dict) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return _Found(None, problem='A tool call wants a "name" and an object of "arguments".')
    if name not in _TOOLS:
        known = ", ".join(_TOOLS)
        return _Found(None, problem=f"There is no tool of that name; there are {known}.")
    action = _TOOLS[name](arguments)
    if action is None:
        return _Found(None, problem=f"The arguments of {name} are not what it takes.")
    return _Found(action, thought)


def _sql_call(arguments: dict[str, Any]) -> str | None:
    query = arguments.get("query")
    return f"SQL: {query}" if isinstance(query, str) else None


def _answer_call(arguments: dict[str, Any]) -> str | None:
    answers = arguments.get("answers")
    if not isinstance(answers, list):
        return None
    return f"Answer: {json.dumps([a if isinstance(a, str) else json.dumps(a) for a in answers])}"


def _action_call(arguments: dict[str, Any]) -> str | None:
    action = arguments.get("action")
    return action if isinstance(action, str) else None


_TOOLS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "execute_sql": _sql_call,
    "commit_final_answer": _answer_call,
    "take_action": _action_call,
}


_Marks = list[tuple[str, int, int]]
"""What begins a line: its kind, where it starts, and where what it marks starts."""


def _marks(text: str) -> _Marks:
    return [
        (_KINDS.get(mark[1].lower(), mark[1].lower()), mark.start(), mark.end())
        for mark in _MARKER.finditer(text)
    ]


def _from_action_line(text: str, marks: _Marks) -> _Found | None:
    first = next((i for i, mark in enumerate(marks) if mark[0] == "action"), None)
    return None if first is None else _after_action(text, marks, first)


def _from_other_markers(text: str, marks: _Marks) -> _Found | None:
    inline = _INLINE_ACTION.search(text)
    if inline:
        return _Found(_one_action(text[inline.end() :]), _thought_of(text[: inline.start()]))
    for kind, start, end in marks:
        if kind in ("final answer", "sql", "answer"):
            word = "SQL" if kind == "sql" else "Answer"
            body = _until_marker(text, marks, end)
            return _Found(f"{word}: {body}" if body else None, _thought_of(text[:start]))
    return None


def _after_action(text: str, marks: _Marks, index: int) -> _Found:
    _, start, end = marks[index]
    thought = _thought_of(text[:start])
    head = text[end:].partition("\n")[0].strip()
    if head.lower() == "operation":
        fence = _FENCE.search(text, end)
        if fence is None:
            return _Found(
                None, thought, "`Action: Operation` wants its statement in a ```sql block."
            )
        return _Found(f"SQL: {_unfenced(text[fence.start() :], sql=True)}", thought)
    following = marks[index + 1] if index + 1 < len(marks) else None
    if head.lower() == "answer":
        if following is None or following[0] != "final answer":
            return _Found(None, thought, '`Action: Answer` wants `Final Answer: ["…"]` after it.')
        body = text[following[2] :].partition("\n")[0].strip()
        return _Found(f"Answer: {body}" if body else None, thought)
    if not head and following is not None and following[0] in ("sql", "answer"):
        end = following[1]
    return _Found(_one_action(text[end:]), thought)


def _one_action(rest: str) -> str:
    """Give the first line, or the whole of a block or statement that begins there."""
    rest = rest.strip()
    if rest.startswith("```"):
        sql = rest[3:6].lower() == "sql"
        return ("SQL: " if sql else "") + _unfenced(rest, sql=sql)
    if rest[:4].lower() == "sql:":
        return f"SQL: {_until_marker(rest, _marks(rest), 4)}"
    return rest.partition("\n")[0]


def _until_marker(text: str, marks: _Marks, end: int) -> str:
    stop = next((start for _, start, _ in marks if start >= end), len(text))
    return _unfenced(text[end:stop].strip(), sql=True)


def _unfenced(body: str, *, sql: bool) -> str:
    """Give what a leading code fence holds; text without one stays as it is."""
    fence = _FENCE.match(body)
    if fence is None or (sql and fence[1].lower() not in ("", "sql")):
        return body
    return body[fence.end() :].partition("```")[0].strip()


def _thought_of(text: str) -> str:
    text = text.strip()
    mark = _MARKER.match(text)
    named = mark is not None and mark[1].lower() in ("thought", "think")
    return text[mark.end() :].strip() if mark and named else text


def _from_box(text: str, marks: _Marks) -> _Found | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for index in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return _Found(text[start + 7 : index], text[:start].strip())
    return _Found(None, problem="The brace of \\boxed is not closed.")


_SURFACES = (_from_action_line, _from_tags, _from_tool_call, _from_other_markers, _from_box)
