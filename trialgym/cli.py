"""The `trialgym` command: one script, a verb each.

The table `VERBS` says where each verb's function stands; its options come from the function's own
signature and docstring. Nothing heavy is imported before a verb needs it.
"""

import argparse
import inspect
import io
import json as jsonlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from trialgym.errors import BadInput, MissingExtra, TrialgymError, UnknownId
from trialgym.records import Json
from trialgym.registry import find, locate, make, table


@dataclass(frozen=True, slots=True)
class Verb:
    """One row of the command's table."""

    help: str
    place: str
    """`module:function`, imported when the verb is used."""
    examples: tuple[str, ...]
    positional: tuple[str, ...] = ()
    """Parameters given by place; all others are options."""
    kind: str | None = None
    """Registry kind of the first argument, when the class found there brings options of its own."""


HOUSEHOLD, DATABASE = "trialgym/Household-v0", "trialgym/Database-v0"
VERBS = {
    "envs": Verb(
        "list the environments, their task sets and splits",
        "trialgym.cli:envs",
        ("trialgym envs", "trialgym envs --json"),
    ),
    "check": Verb(
        "test that environments keep the contract",
        "trialgym.envs.check:command",
        ("trialgym check", f"trialgym check {HOUSEHOLD} --tasks 20 --json"),
        positional=("envs",),
    ),
    "play": Verb(
        "play an environment yourself",
        "trialgym.benchmarks.play:play",
        (f"trialgym play {HOUSEHOLD}", f"trialgym play {DATABASE} --task database/test/000003"),
        positional=("env",),
    ),
    "rollout": Verb(
        "collect trajectories of an agent into a directory",
        "trialgym.benchmarks.rollout:rollout",
        (
            f"trialgym rollout {HOUSEHOLD} --tasks train:0:20 --agent expert --candidates "
            "--out runs/expert",
            f"trialgym rollout {DATABASE} --tasks dbbench_dev.jsonl --agent expert --out runs/dev",
            f"trialgym rollout {HOUSEHOLD} --tasks test --agent random --samples 4 --seed 1 "
            "--env_options.max_turns 20 --out runs/random --json",
        ),
        positional=("env",),
    ),
    "evaluate": Verb(
        "measure agents on held-out tasks, with intervals",
        "trialgym.benchmarks.evaluate:evaluate",
        (
            f"trialgym evaluate {HOUSEHOLD} --agent random --split test --count 500",
            f"trialgym evaluate {HOUSEHOLD} --agent checkpoints/bc checkpoints/eto-3 --json",
        ),
        positional=("env",),
    ),
    "train": Verb(
        "train a policy on trajectories with one algorithm",
        "trialgym.algorithms.train:train",
        (
            "trialgym train bc --help",
            "trialgym train bc --policy ranker --demonstrations runs/expert --out checkpoints/bc",
            "trialgym train eto --policy checkpoints/bc --explored runs/trials "
            "--pairs.source self --out checkpoints/eto",
        ),
        positional=("algorithm",),
        kind="algorithm",
    ),
    "loop": Verb(
        "explore, train and evaluate, round after round",
        "trialgym.algorithms.loop:command",
        (
            "trialgym loop --preset laptop --out runs/laptop",
            "trialgym loop --preset laptop --seed 1 --set.rounds 5 --out runs/laptop-1",
        ),
    ),
    "export": Verb(
        "write stored trajectories to a .jsonl or .parquet file",
        "trialgym.cli:export",
        (
            "trialgym export runs/expert --out expert.jsonl",
            "trialgym export runs/laptop --group explore/1 --out trials.parquet",
        ),
        positional=("source",),
    ),
    "runs": Verb(
        "list run directories and how far they are",
        "trialgym.benchmarks.runs:runs",
        ("trialgym runs", "trialgym runs elsewhere --json"),
        positional=("directory",),
    ),
}
EXTRAS = dict.fromkeys(("torch", "transformers", "trl", "peft", "accelerate", "datasets"), "train")
EXTRAS |= {"pyarrow": "parquet", "psycopg": "postgres", "vllm": "gpu", "deepspeed": "gpu"}
"""Which extra brings a package that a verb's module may import."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status.

    Returns:
        0 for success, 2 for an error that the message explains, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test's capture may be something else
            stream.reconfigure(errors="backslashreplace")
    try:
        if not arguments or arguments[0].startswith("-"):
            return _top(arguments)
        if arguments[0] not in VERBS:
            raise UnknownId("command", arguments[0], VERBS)
        function, values = parse(arguments[0], arguments[1:])
        status = int(function(**values) or 0)
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # argparse's way to end after --help
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        resumable = any(part.split("=")[0] == "--out" for part in arguments)
        again = f"; to resume: trialgym {shlex.join(arguments)}" if resumable else ""
        print(f"\ninterrupted{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (TrialgymError, OSError) as error:
        return _complain(error)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in EXTRAS:
            raise
        return _complain(MissingExtra(package, EXTRAS[package]))


def _complain(error: Exception) -> int:
    lines = printable(str(error)).splitlines()
    print("error: " + " ".join(line.strip() for line in lines), file=sys.stderr)
    return 2


def _top(arguments: list[str]) -> int:
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="trialgym",
        usage="trialgym [-h] [--version] COMMAND ...",
        description="Text environments, and the loop that learns from trial and error.",
        epilog=f"commands:\n{rows}\n\n`trialgym COMMAND --help` shows its options, with examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    if parser.parse_args(arguments).version:
        from trialgym import __version__

        print(f"trialgym {__version__}")
        return 0
    parser.print_help(sys.stderr)
    return 2


def parse(name: str, arguments: Sequence[str]) -> tuple[Callable[..., Any], Json]:
    """Find a verb's function, and its arguments from the words after the verb.

    Raises:
        BadInput: an unknown option, a missing one, or a value of the wrong type.
        SystemExit: after `--help`.
    """
    import jsonargparse

    verb = VERBS[name]
    function = locate(verb.place)
    parser = _parser(name, verb, function)
    chosen = None
    if verb.kind is not None and arguments and not arguments[0].startswith("-"):
        chosen = find(verb.kind, arguments[0])
        _add_fields(parser, chosen, chosen)
    hints = get_type_hints(function)
    rest, mappings = _mappings(arguments, [key for key in hints if _inner(hints[key]) is dict])
    try:
        space = parser.parse_args(rest).as_dict()
    except (jsonargparse.ArgumentError, argparse.ArgumentError) as error:
        raise BadInput(f"{_told(str(error))}; see `trialgym {name} --help`") from error
    values = {key: _build(hints[key], space[key]) for key in inspect.signature(function).parameters}
    for key, given in mappings.items():
        values[key] = _merged(values[key] or {}, given)
    if chosen is not None:
        values[str(verb.kind)] = _build(chosen, space)
    return function, values


def _told(message: str) -> str:
    """Shorten what jsonargparse says about a value of the wrong type."""
    key = re.match(r'Parser key "([\w.]+)"', message)
    kinds = re.findall(r"Expected an? <class '(\w+)'>", message)
    given = re.search(r"(?:Given|Got) value: (.*)", message)
    if not (key and kinds and given):
        return message
    wanted = " or ".join(kind for kind in kinds if kind != "NoneType")
    return f"`{key[1]}` is `{given[1]}`; wanted {wanted}"


def _mappings(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], Json]:
    """Take `--name.some.key value` out of the words, for names that are mappings.

    jsonargparse reads one level of keys and, of several, keeps the last (4.53).
    """
    rest: list[str] = []
    found: Json = {}
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        name, _, path = flag.removeprefix("--").partition(".")
        if not (flag.startswith("--") and name in names and path):
            rest.append(word)
            continue
        if not equals and (value := next(words, "--")).startswith("--"):
            raise BadInput(f"`{flag}` has no value; wanted `{flag} VALUE`")
        nested = _plain(value)
        for key in reversed([name, *path.split(".")]):
            nested = {key: nested}
        found = _merged(found, nested)
    return rest, found


def _plain(value: str) -> Any:
    """Read a number, `true`, `null` or other JSON; anything else is text."""
    try:
        return jsonlib.loads(value)
    except ValueError:
        return value


def _merged(left: Mapping[str, Any], right: Mapping[str, Any]) -> Json:
    both = {**left, **right}
    for key in left.keys() & right.keys():
        if isinstance(left[key], Mapping) and isinstance(right[key], Mapping):
            both[key] = _merged(left[key], right[key])
    return both


def _parser(name: str, verb: Verb, function: Callable[..., Any]) -> Any:
    import docstring_parser
    import jsonargparse

    documentation = docstring_parser.parse(inspect.getdoc(function) or "")
    helps = {row.arg_name: row.description or "" for row in documentation.params}
    text = [documentation.short_description, documentation.long_description]
    parser = jsonargparse.ArgumentParser(
        prog=f"trialgym {name}",
        description="\n\n".join(part for part in text if part),
        epilog="examples:\n" + "\n".join(f"  {example}" for example in verb.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    hints = get_type_hints(function)
    for parameter in inspect.signature(function).parameters.values():
        key = parameter.name
        _add(
            parser,
            key if key in verb.positional else f"--{key}",
            hints[key],
            parameter.default,
            helps.get(key, ""),
        )
    return parser


def _add(parser: Any, flag: str, hint: Any, default: Any, text: str) -> None:
    """Add one option; a dataclass adds an option for each of its fields."""
    if is_dataclass(hint):
        return _add_fields(parser, hint, default, f"{flag.removeprefix('--')}.")
    by_place, required = not flag.startswith("-"), default is inspect.Parameter.empty
    silent = required or default is None or default is False
    told = "" if silent else f" (default: {default})"
    options: Json = {"help": (" ".join(text.split()) + told).replace("%", "%%")}
    if not required:
        options["default"] = default
    elif not by_place:
        options["required"] = True
    if hint is bool and default is False:
        options["action"] = "store_true"
    else:
        options |= _typed(hint, by_place and not required)
    parser.add_argument(flag, **options)


def _add_fields(parser: Any, kind: Any, default: Any, prefix: str = "") -> None:
    """Add the fields of a dataclass; the text under a field is its help."""
    import docstring_parser

    # jsonargparse's own `add_class_arguments` fails on slotted dataclasses as defaults (4.53).
    helps = {
        row.arg_name: row.description or ""
        for row in docstring_parser.parse_from_object(kind).params
    }
    hints = get_type_hints(kind)
    for field in fields(kind):
        value = _default(field) if isinstance(default, type) else getattr(default, field.name)
        _add(parser, f"--{prefix}{field.name}", hints[field.name], value, helps.get(field.name, ""))


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return inspect.Parameter.empty if field.default_factory is MISSING else field.default_factory()


def _build(hint: Any, value: Any) -> Any:
    """Make the dataclass of what was parsed for its fields; anything else is what it is."""
    if not is_dataclass(hint) or not isinstance(hint, type):
        return value
    hints = get_type_hints(hint)
    return hint(
        **{field.name: _build(hints[field.name], value[field.name]) for field in fields(hint)}
    )


def _typed(hint: Any, optional_place: bool) -> Json:
    """Say how argparse reads a type: lists take many words, everything else one."""
    if _inner(hint) is list:
        (row,) = [one for one in (hint, *get_args(hint)) if get_origin(one) is list]
        return {"type": get_args(row)[0], "nargs": "*" if optional_place else "+"}
    return {"type": hint} | ({"nargs": "?"} if optional_place else {})


def _inner(hint: Any) -> Any:
    """Give `list` for `list[str] | None`, and so on."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [get_origin(member) or member for member in members if member is not NoneType]
    return kinds[0] if len(kinds) == 1 else None


# What verbs share.

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x1b\\|\x07|$)|[@-_]?)", re.DOTALL)
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Drop what could steer a terminal: escape sequences, control characters, text direction."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def show(
    rows: Sequence[Mapping[str, Any]],
    *,
    json: bool,
    one: bool = False,
    table: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Print rows as a table, or as one JSON document.

    Args:
        rows: the rows, all with the same keys.
        json: print a JSON array instead.
        one: print the only row as an object where `json` is set.
        table: what the table shows instead of `rows`.
    """
    if json:
        document = rows[0] if one else list(rows)
        print(jsonlib.dumps(document, indent=2, default=str))
        return
    rows = rows if table is None else table
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*(rows[0] if rows else ("nothing",)))
    for row in rows:
        drawn.add_row(*(Text(printable(_cell(value))) for value in row.values()))
    # A pipe has no width: then rows keep their length, as `grep` and `awk` need them.
    Console(width=None if sys.stdout.isatty() else 240).print(drawn)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    return "-" if value is None else str(value)


# The verbs whose functions need no room.


def envs(*, json: bool = False) -> int:
    """List the environments, their task sets and splits.

    Args:
        json: print a JSON array instead of a table.
    """
    show([_env_row(name) for name in table("env")], json=json)
    return 0


def _env_row(name: str) -> Json:
    row: Json = {"id": name, "tasks": None, "splits": {}, "needs": None, "about": ""}
    try:
        row["about"] = (inspect.getdoc(find("env", name)) or "").partition("\n")[0]
        env = make(name)
        row["tasks"] = env.tasks.name
        row["splits"] = {
            split: "unlimited" if size is None else size for split, size in env.tasks.splits.items()
        }
        env.close()
    except (TrialgymError, ImportError) as error:
        row["needs"] = str(error)
    return row


def export(source: str, *, out: Path, group: str | None = None, json: bool = False) -> int:
    """Write stored trajectories to a `.jsonl` or `.parquet` file.

    Args:
        source: a run directory, a store's SQLite file, or a database URL (`URL#RUN` where it holds
            several runs).
        out: the file to write; it appears whole or not at all.
        group: only one group, such as `explore/1`.
        json: print one JSON object instead of a table.
    """
    from trialgym.store import open_source

    with open_source(source) as kept:
        groups = kept.groups()
        if group is not None and group not in groups:
            raise UnknownId("group", group, groups)
        count = kept.export(out, group)
    show([{"trajectories": count, "out": str(out)}], json=json, one=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
