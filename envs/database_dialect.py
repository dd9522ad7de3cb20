"""What SQL written for MySQL needs before SQLite reads it. One pass, linear in the text."""

import re

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "Z": "\x1a", "%": "\\%", "_": "\\_"}
_PIECE = re.compile(
    r"""
      (?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<hash>\#[^\n]*)
    | (?P<name>`(?:[^`]|``)*(?:`|\Z))
    | (?P<text>'(?:[^'\\]|\\.|'')*(?:'|\Z)|"(?:[^"\\]|\\.|"")*(?:"|\Z))
    | (?P<digits>[0-9]\w*)
    | \w+
    """,
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"[0-9]+(?:[eE][0-9]+)?|0[xX][0-9a-fA-F]+")
_SHOW_TABLES = re.compile(r"\s*show\s+tables\s*;?\s*", re.IGNORECASE)
_DESCRIBE = re.compile(
    r"\s*(?:describe|desc|show\s+columns\s+(?:from|in))\s+(`[^`]+`|\"[^\"]+\"|\w+)\s*;?\s*",
    re.IGNORECASE,
)


def from_mysql(statement: str) -> str:
    """Write a statement of MySQL for SQLite: literals, odd names, SHOW TABLES and DESCRIBE."""
    if _SHOW_TABLES.fullmatch(statement):
        return "SELECT name FROM sqlite_master WHERE type = 'table'"
    described = _DESCRIBE.fullmatch(statement)
    if described:
        return f"PRAGMA table_info({described[1]})"
    return _PIECE.sub(_piece, statement)


def _piece(found: re.Match[str]) -> str:
    kind, raw = found.lastgroup, found[0]
    if kind == "hash":
        return "--" + raw[1:]
    if kind == "digits" and not _NUMBER.fullmatch(raw):
        return f"`{raw}`"
    if kind == "text" and "\\" in raw:
        return _literal(raw)
    return raw


def _literal(raw: str) -> str:
    quote = raw[0]
    closed = len(raw) > 1 and raw[-1] == quote
    body = raw[1:-1] if closed else raw[1:]
    body = re.sub(r"\\(.)", _escape, body.replace(quote * 2, "\\" + quote), flags=re.DOTALL)
    return quote + body.replace(quote, quote * 2) + (quote if closed else "")


def _escape(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[1], found[1])
