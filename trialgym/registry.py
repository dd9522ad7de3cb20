"""Rows of ids and the places of what they name; nothing is imported before it is asked for.

Other packages add rows through the entry-point groups `trialgym.envs`, `trialgym.agents` and
`trialgym.algorithms`, each entry `id = "module:Name"`.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

import gymnasium

from trialgym.core import TextEnv
from trialgym.errors import BadInput, UnknownId

ENVS = {
    "trialgym/Household-v0": "trialgym.envs.household:Household",
    "trialgym/Database-v0": "trialgym.envs.database:Database",
}
AGENTS = {
    "expert": "trialgym.agents.scripted:Expert",
    "random": "trialgym.agents.scripted:Random",
    "null": "trialgym.agents.scripted:Null",
    "replay": "trialgym.agents.scripted:Replay",
    "ranker": "trialgym.agents.ranker:Ranker",
    "transformers": "trialgym.agents.language:Language",
    "tiny": "trialgym.agents.tiny:Tiny",
}
ALGORITHMS = {
    "bc": "trialgym.algorithms.bc:BehaviourCloning",
    "eto": "trialgym.algorithms.eto:Eto",
    "rft": "trialgym.algorithms.rft:RejectionSampling",
}
KINDS = {"env": ENVS, "agent": AGENTS, "algorithm": ALGORITHMS}


@cache
def table(kind: str) -> dict[str, str]:
    """Give our rows and those that installed packages add, by id; ours win."""
    added = {entry.name: entry.value for entry in entry_points(group=f"trialgym.{kind}s")}
    return added | KINDS[kind]


def locate(place: str) -> Any:
    """Import what `module:Name` says."""
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except (AttributeError, ValueError) as error:
        raise BadInput(f"registry row `{place}`; wanted `module:Name`; {error}") from error


def find(kind: str, name: str) -> Any:
    """Import what is registered under an id.

    Raises:
        UnknownId: no row has the id; the message names the nearest one.
    """
    rows = table(kind)
    if name not in rows:
        raise UnknownId(kind, name, rows)
    return locate(rows[name])


def register_with_gymnasium() -> None:
    """Let `gymnasium.make` know every env row, so that our ids work there too."""
    for name, place in table("env").items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=place)


def make(name: str, **options: Any) -> TextEnv[Any]:
    """Make an environment by id, without Gymnasium's wrappers.

    Args:
        name: a registry id, such as `trialgym/Household-v0`.
        options: the environment's own options, such as `max_turns` or `split`.

    Raises:
        UnknownId: no environment has the id.
        BadInput: an option that the environment does not take.
    """
    factory = find("env", name)
    try:
        return cast("TextEnv[Any]", factory(**options))
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise BadInput(f"options {sorted(options)} of `{name}`: {error}") from error
