"""Right or wrong: AgentBench's two graders, bit for bit, and a strict one of our own.

`v0.2` and `fc` keep the quirks of the programs they are named after, so that scores compare with
published ones; `strict` mends them. None evaluates an answer as code.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import md5
from math import isfinite
from typing import Any

from .database_actions import Answer, read_literal
from .database_backend import Image
from .database_image import Row, contents, digest

GRADERS = ("strict", "v0.2", "fc")
CONCAT_LIMIT = 1024
"""MySQL's default `group_concat_max_len`: only the first 170 row hashes of a table count."""
EMPTY = frozenset(("none", "null", "undefined", "nan", "inf", "infinity", "-inf", "-infinity", ""))
WITHIN = 1e-2


@dataclass(frozen=True, slots=True)
class Grader:
    """How answers and tables are compared with the truth."""

    answer: Callable[[Answer, Sequence[Any]], bool]
    tables: Callable[[Image, Image, str | None], bool]
    """Whether a database is right, given the one that the gold statement leaves, and the file's
    own hash of it."""


def agentbench_answer(answer: Answer, truth: Sequence[Any]) -> bool:
    """Compare as AgentBench v0.2: floats for single values, else strings as sets."""
    values: list[Any] = list(answer.values)
    if answer.text is not None:
        try:
            value = read_literal(answer.text)
            # `list` of a string gives its characters: the original does just that.
            values = list(value) if isinstance(value, (str, list, tuple)) else [answer.text]
        except ValueError:
            values = [answer.text]
    label = [str(value) for value in truth]
    if len(values) == 1 and len(label) == 1:
        try:
            return float(values[0]) == float(label[0])
        except (TypeError, ValueError, OverflowError):
            return bool(values[0] == label[0])
    try:
        return set(values) == set(label)
    except TypeError:
        return False


def tools_answer(answer: Answer, truth: Sequence[Any]) -> bool:
    """Compare as AgentBench FC: cleaned values, floats within 0.01, else sets of strings."""
    given, wanted = [_clean(v) for v in answer.values], [_clean(v) for v in truth]
    left, right = [_float(v) for v in given], [_float(v) for v in wanted]
    if len(given) == 1 and len(wanted) == 1:
        if left[0] is not None and right[0] is not None:
            return abs(left[0] - right[0]) <= WITHIN
        return given == wanted
    if None not in left and None not in right:
        return _matched([v for v in left if v is not None], [v for v in right if v is not None])
    return set(given) == set(wanted)


def _clean(value: Any) -> str:
    text = str(value).strip()
    if text.endswith("%"):
        text = text[:-1].strip()
    if not (text.startswith(("[", "(")) and text.endswith(("]", ")"))):
        text = text.replace(",", "")
    return "0" if text.lower() in EMPTY else text


def _float(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _matched(left: list[float], right: list[float]) -> bool:
    """Match numbers one to one; on a line, the sorted order is a best matching."""
    return len(left) == len(right) and all(
        abs(a - b) <= WITHIN for a, b in zip(sorted(left), sorted(right), strict=True)
    )


def strict_answer(answer: Answer, truth: Sequence[Any]) -> bool:
    """Compare as multisets of typed values: whole numbers exactly, others within 0.01."""
    given = [_bare(value) for value in answer.values]
    if len(given) != len(truth):
        return False
    numbers = [v for v in truth if isinstance(v, (int, float)) and not isinstance(v, bool)]
    rest = Counter(map(_word, given))
    rest.subtract(_word(v) for v in truth if not isinstance(v, (int, float)))
    if min(rest.values(), default=0) < 0:
        return False
    left = [_number(word) for word in rest.elements()]
    if None in left:
        return False
    pairs = zip(sorted(v for v in left if v is not None), sorted(numbers), strict=True)
    return all(_same(a, b) for a, b in pairs)


def _same(given: float, wanted: float) -> bool:
    return given == wanted if wanted == int(wanted) else abs(given - wanted) <= WITHIN


def _bare(value: Any) -> Any:
    """Take a value out of a row of one, as results are shown."""
    return value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value


def _word(value: Any) -> str:
    return "none" if value is None else str(value).strip()


def _number(word: str) -> float | None:
    if len(word) > 40 or not word.isascii() or "_" in word:
        return None
    value = _float(word)
    return value if value is not None and isfinite(value) else None


def typed(label: Sequence[str]) -> list[Any]:
    """Read a file's labels, all strings, as the values that they stand for."""
    values: list[Any] = []
    for word in label:
        value = _number(word.strip())
        values.append(word.strip() if value is None else value)
    return values


# Tables.


def table_hash(rows: Sequence[Row]) -> str | None:
    """Hash rows as AgentBench has MySQL do it; None for a table without rows."""
    if not rows:
        return None
    joined = (",".join(str(value) for value in row if value is not None) for row in rows)
    hashes = sorted(_md5(line)[:5] for line in joined)
    return _md5(",".join(hashes)[:CONCAT_LIMIT])


def database_hash(image: Image) -> str:
    """Hash every table; AgentBench FC joins the hashes, sorted, with underscores."""
    return "_".join(sorted(str(table_hash(rows)) for rows in contents(image).values()))


def _md5(text: str) -> str:
    return md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def agentbench_tables(now: Image, gold: Image, file_hash: str | None) -> bool:
    """Compare by AgentBench's hash: the file's own, or that of the gold statement's result."""
    found = database_hash(now)
    return found in (file_hash, database_hash(gold))


def strict_tables(now: Image, gold: Image, file_hash: str | None) -> bool:
    """Compare all rows of all tables, typed, duplicates and NULLs included."""
    return now.token == gold.token or digest(now) == digest(gold)


TABLE = {
    "strict": Grader(strict_answer, strict_tables),
    "v0.2": Grader(agentbench_answer, agentbench_tables),
    "fc": Grader(tools_answer, agentbench_tables),
}
