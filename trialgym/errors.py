"""Every error that trialgym raises on purpose.

A message says what was given; what was wanted; what to do. The tree, by the boundary crossed::

    TrialgymError
    ├── UnknownId (KeyError)          an id that no registry row or task set has
    ├── BadInput (ValueError)         a value, file or field that cannot be used
    │   ├── BadFile                   the same, with path, line and field
    │   └── NothingToLearn            experience without anything that an algorithm can use
    ├── NotReady (RuntimeError)       a step before reset or after the end
    ├── MissingExtra (ImportError)    an optional package that is not installed
    ├── RunConflict (RuntimeError)    a run directory that is in use, or of another configuration
    ├── StorageFull (OSError)         the disk is full; nothing that was acknowledged is lost
    └── Fault (RuntimeError)          infrastructure failed, not the agent: worth another attempt
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class TrialgymError(Exception):
    """Root of the tree."""


class UnknownId(TrialgymError, KeyError):
    """An id that nothing is registered under."""

    def __init__(self, kind: str, given: str, known: Iterable[str]) -> None:
        self.kind, self.given, self.known = kind, given, tuple(known)
        near = get_close_matches(given, self.known, n=1, cutoff=0.5)
        names = ", ".join(f"`{name}`" for name in self.known[:12]) or "none"
        hint = f"did you mean `{near[0]}`?" if near else f"known: {names}"
        super().__init__(f"unknown {kind} `{given[:200]}`; {hint}")

    def __str__(self) -> str:
        """Undo KeyError's quoting of its message."""
        return str(self.args[0])

    def __reduce__(self) -> tuple[type, tuple[str, str, tuple[str, ...]]]:
        """Rebuild from the constructor's arguments, so the error crosses process borders."""
        return type(self), (self.kind, self.given, self.known)


class BadInput(TrialgymError, ValueError):
    """A value that cannot be used."""


class BadFile(BadInput):
    """A file that cannot be used; names the line and the field."""

    def __init__(
        self, path: Path | str, problem: str, *, line: int | None = None, field: str | None = None
    ) -> None:
        self.path, self.problem, self.line, self.field = Path(path), problem, line, field
        place = str(path) + (f", line {line}" if line is not None else "")
        place += f", field `{field}`" if field is not None else ""
        super().__init__(f"{place}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild with the keyword arguments, so the error crosses process borders."""
        return _bad_file, (self.path, self.problem, self.line, self.field)


def _bad_file(path: Path, problem: str, line: int | None, field: str | None) -> BadFile:
    return BadFile(path, problem, line=line, field=field)


class NothingToLearn(BadInput):
    """Experience without anything to learn from: no success to clone, no pair to prefer."""


class NotReady(TrialgymError, RuntimeError):
    """A call that the object's state does not allow."""


class MissingExtra(TrialgymError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"`{package}` is not installed; run `pip install 'trialgym[{extra}]'`")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Rebuild from the constructor's arguments, so the error crosses process borders."""
        return type(self), (self.package, self.extra)


class RunConflict(TrialgymError, RuntimeError):
    """A run directory is in use by another process, or belongs to another configuration."""


class StorageFull(TrialgymError, OSError):
    """No space is left; what was acknowledged before is safe."""


class Fault(TrialgymError, RuntimeError):
    """Infrastructure failed (a worker died, a server timed out): never the agent's failure."""
