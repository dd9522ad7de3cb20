"""The conformance checker: what Gymnasium's `check_env` does not look at.

Every property is one function that tells what it saw, or raises `Broken` saying where it broke. The
contract test of the suite runs the same table over every registered environment.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from json import dumps
from typing import Any

from trialgym.core import TextEnv
from trialgym.errors import BadInput, Fault, MissingExtra, UnknownId
from trialgym.registry import find, locate, table

from . import check_policies, check_rules, check_sameness
from .check_episodes import Broken, Subject

Property = Callable[[Subject], str]

PROPERTIES: dict[str, Property] = {
    "gymnasium": check_rules.gymnasium_check,
    "tasks": check_rules.tasks,
    "splits": check_rules.splits,
    "instruction": check_rules.instruction,
    "actions": check_rules.actions,
    "rewards": check_rules.rewards,
    "bounds": check_rules.bounds,
    "json": check_rules.as_json,
    "ready": check_rules.ready,
    "cap": check_rules.cap,
    "state hash": check_rules.state_hash,
    "admissible": check_rules.admissible,
    "twin": check_sameness.twin,
    "private random": check_sameness.private_random,
    "replay": check_sameness.replay,
    "fork": check_sameness.fork,
    "reset": check_sameness.reset,
    "isolation": check_sameness.isolation,
    "threads": check_sameness.threads,
    "pickling": check_sameness.pickling,
    "hostile": check_policies.hostile,
    "expert": check_policies.expert,
    "null": check_policies.null,
    "echo": check_policies.parrot,
    "garbage": check_policies.garbage,
    "random": check_policies.luck,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a property of an environment holds, and what was seen."""

    env: str
    property: str
    passed: bool
    detail: str


def check(
    env: str | Callable[[], TextEnv[Any]],
    *,
    properties: Iterable[str] | None = None,
    tasks: int = 50,
    hostile: int = 300,
    seed: int = 0,
) -> list[Finding]:
    """Check an environment.

    Args:
        env: a registry id, `module:Name` of a class or function, or what makes the environment.
        properties: names of `PROPERTIES`; all when left out.
        tasks: how many tasks a split the expert must solve; other samples scale with it.
        hostile: how many hostile actions to send, at least the corpus of about sixty.
        seed: draws other random and hostile actions.

    Raises:
        UnknownId: neither an environment nor a property has the name.
        BadInput: what is given makes no `TextEnv`.
    """
    wanted = list(PROPERTIES) if properties is None else list(properties)
    for name in wanted:
        if name not in PROPERTIES:
            raise UnknownId("property", name, PROPERTIES)
    if tasks < 1 or hostile < 1:
        raise BadInput(f"tasks {tasks}, hostile {hostile}; wanted at least 1 of each")
    subject = _subject(env, tasks, hostile, seed)
    subject.make().close()
    return [_finding(subject, name) for name in wanted]


def _subject(env: str | Callable[[], TextEnv[Any]], tasks: int, hostile: int, seed: int) -> Subject:
    if not isinstance(env, str):
        name = f"{env.__module__}:{env.__qualname__}" if isinstance(env, type) else repr(env)
        return Subject(name, env, tasks, hostile, seed)
    factory = locate(env) if ":" in env else find("env", env)
    if not callable(factory):
        raise BadInput(f"`{env}` is a {type(factory).__name__}; wanted a class or function")
    return Subject(env, factory, tasks, hostile, seed)


def _finding(subject: Subject, name: str) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return Finding(subject.name, name, True, PROPERTIES[name](subject))
    except Broken as broken:
        return Finding(subject.name, name, False, str(broken))
    except Exception as error:
        return Finding(subject.name, name, False, f"{type(error).__name__}: {error}")


def command(envs: list[str] | None = None, tasks: int = 50, json: bool = False) -> int:
    """Check that environments keep the contract.

    Args:
        envs: registry ids or `module:Name`; every registered environment when left out.
        tasks: how many tasks a split the expert must solve; other samples scale with it.
        json: print one JSON array instead of a table.

    Returns:
        1 if anything failed, 0 otherwise.
    """
    found = [row for env in envs or table("env") for row in _rows(env, tasks)]
    if json:
        print(dumps([asdict(row) for row in found], indent=1))
    else:
        _print(found)
    return int(not all(row.passed for row in found))


def _rows(env: str, tasks: int) -> list[Finding]:
    try:
        return check(env, tasks=tasks)
    except (MissingExtra, Fault) as error:  # One that cannot run here must not hide the others.
        return [Finding(env, "make", False, str(error))]


def _print(found: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table("env", "property", "", "detail")
    for row in found:
        mark = Text("ok", "green") if row.passed else Text("FAILED", "bold red")
        grid.add_row(Text(row.env), row.property, mark, Text(row.detail))
    Console().print(grid)
