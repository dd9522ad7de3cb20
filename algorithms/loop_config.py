"""What a run of the loop is asked to do."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from trialgym.errors import BadFile, BadInput, UnknownId
from trialgym.records import Json

PRESETS = Path(__file__).parent / "presets"
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """A run of the explore-train loop."""

    name: str = "run"
    environment: str = "trialgym/Household-v0"
    environment_options: dict[str, Any] = field(default_factory=dict)
    agent: str = "ranker"
    """Registry id of the policy to train."""
    agent_options: dict[str, Any] = field(default_factory=dict)
    demonstrations: int = 20
    """Expert episodes to clone."""
    clone_options: dict[str, Any] = field(default_factory=dict)
    """Of `bc`, for the first policy."""
    algorithm: str = "eto"
    """Registry id of what turns explored episodes into a better policy."""
    algorithm_options: dict[str, Any] = field(default_factory=dict)
    rounds: int = 3
    tasks: int = 400
    """Fresh tasks to explore each round."""
    samples: int = 4
    """Episodes of each."""
    rounds_kept: int = 1
    """Rounds whose episodes are learnt from: 1, as in the paper, takes the latest alone."""
    temperature: float = 1.0
    """Of exploring."""
    evaluation_temperature: float = 0.0
    panels: dict[str, int] = field(default_factory=lambda: {"test": 500, "test_unseen": 500})
    """Held-out splits and how many tasks of each are evaluated after every round."""
    concurrency: int = 64
    repeats: int | None = None
    """End an episode after so many identical actions in a row."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that no run can have."""
        for name in ("demonstrations", "tasks", "samples", "rounds_kept", "concurrency"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} {getattr(self, name)}; wanted at least 1")
        if self.rounds < 0 or self.temperature < 0 or self.evaluation_temperature < 0:
            raise BadInput("rounds and temperatures below 0; wanted 0 or more")


def load(preset: str | None, file: Path | None, overrides: Mapping[str, Any]) -> LoopConfig:
    """Put a configuration together: preset, then file, then single fields.

    Raises:
        UnknownId: no such preset.
        BadFile: the file is missing, is not YAML, or has a field that there is not.
    """
    values: Json = {}
    if preset is not None:
        path = PRESETS / f"{preset}.yaml"
        if not path.is_file():
            raise UnknownId("preset", preset, sorted(one.stem for one in PRESETS.glob("*.yaml")))
        values |= _read(path)
    if file is not None:
        values |= _read(file)
    return configure(LoopConfig, {**values, **overrides}, str(file or preset or "options"))


def _read(path: Path) -> Json:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadFile(path, "no such file; wanted a YAML file of loop options") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise BadFile(path, f"not YAML ({error})", line=mark.line + 1 if mark else None) from error
    if not isinstance(values, dict):
        raise BadFile(path, "wanted `field: value` lines")
    return values


def configure(kind: type[Made], values: Mapping[str, Any], origin: str) -> Made:
    """Build a frozen dataclass, and those within it, from plain values.

    Raises:
        BadInput: an unknown field, or a value of another type; names where and what is wanted.
    """
    if not isinstance(values, Mapping):
        raise BadInput(f"{origin}: `{values!r}`; wanted `field: value` lines")
    rows = {row.name: row for row in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for name in values:
        if name not in rows:
            raise UnknownId(f"field of {origin}", str(name), rows)
    made: dict[str, Any] = {}
    for name, value in values.items():
        if is_dataclass(hints[name]):
            row = rows[name]
            default = row.default if row.default_factory is MISSING else row.default_factory()
            made[name] = _changed(default, value, f"{origin}.{name}")
        else:
            made[name] = _checked(hints[name], value, f"{origin}.{name}")
    return kind(**made)


def _changed(default: Any, values: Mapping[str, Any], origin: str) -> Any:
    """Give `default` with some fields changed: a partly given section keeps the rest."""
    given = configure(type(default), values, origin)
    return replace(default, **{name: getattr(given, name) for name in values})


def _checked(hint: Any, value: Any, origin: str) -> Any:
    """Give `value` as the type that is wanted; whole numbers pass for floats."""
    choices = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    for choice in choices:
        kind = get_origin(choice) or choice
        if kind is Literal:
            if value in get_args(choice):
                return value
        elif kind is float and type(value) is int:
            return float(value)
        elif type(value) is (NoneType if kind is None else kind):
            return value
    wanted = " or ".join(str(getattr(choice, "__name__", choice)) for choice in choices)
    raise BadInput(f"{origin}: `{value!r}`; wanted {wanted}; see docs/cli.md")
