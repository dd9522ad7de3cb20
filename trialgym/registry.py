"""Rows of ids and the places of what they name; nothing is imported before it is asked for.

Other packages add rows through the entry-point groups `trialgym.envs`, `trialgym.agents` and
`trialgym.algorithms`, each entry `id = "module:Name"`.
"""

import inspect
import json
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args, get_origin

import gymnasium

from trialgym.core import TextEnv
from trialgym.errors import BadFile, BadInput, UnknownId
from trialgym.policy import Policy

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

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
            vector_place = f"trialgym.envs.vector:{name}"
            gymnasium.register(name, entry_point=place, vector_entry_point=vector_place)


def make(name: str, **options: Any) -> TextEnv[Any]:
    """Make an environment by id, without Gymnasium's wrappers.

    Args:
        name: a registry id, such as `trialgym/Household-v0`.
        options: the environment's own options, such as `max_turns` or `split`.

    Raises:
        UnknownId: no environment has the id.
        BadInput: an option that the environment does not take.
    """
    return cast("TextEnv[Any]", _call(find("env", name), name, options))


AGENT_FILE = "trialgym_agent.json"
"""Stands in the directory of a saved policy; its `agent` is the registry id that loads it."""


def make_vec(name: str, num_envs: int = 1, **options: Any) -> "VectorEnv[Any, Any, Any]":
    """Make many environments that step together; see `trialgym.envs.vector` for the options.

    Args:
        name: a registry id.
        num_envs: how many slots.
        options: `backend` (`inline`, `thread` or `process`), `autoreset_mode`, `workers`, and the
            environment's own options.

    Raises:
        UnknownId: no environment has the id.
        BadInput: an option that neither the vector nor the environment takes.
    """
    vector = locate("trialgym.envs.vector:make_vec")(name, num_envs, **options)
    return cast("VectorEnv[Any, Any, Any]", vector)


def make_agent(name: str | Path, **options: Any) -> Policy:
    """Make an agent by id, or load the policy saved in a directory.

    Args:
        name: a registry id such as `expert`, or a directory that a policy's `save` wrote.
        options: the agent's own options, such as `seed` or `temperature`.

    Raises:
        UnknownId: no agent has the id, and there is no such directory.
        BadFile: the directory's description cannot be read.
    """
    saved = Path(name) / AGENT_FILE
    if not saved.is_file():
        return cast("Policy", _call(find("agent", str(name)), str(name), options))
    try:
        agent = str(json.loads(saved.read_text(encoding="utf-8"))["agent"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadFile(saved, f"not a saved policy ({error!r})", field="agent") from error
    return cast("Policy", _call(find("agent", agent), agent, options, str(name)))


def _call(factory: Any, name: str, options: dict[str, Any], *arguments: str) -> Any:
    hints = _hints(factory)
    for key, value in options.items():
        if key in hints and not _fits(value, hints[key]):
            wanted = hints[key].__name__ if isinstance(hints[key], type) else hints[key]
            raise BadInput(f"option `{key}` of `{name}` is {value!r:.200}; wanted {wanted}")
    try:
        return factory(*arguments, **options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise BadInput(f"options {sorted(options)} of `{name}`: {error}") from error


@cache
def _hints(factory: Any) -> dict[str, Any]:
    """Give the types of a factory's options, as far as they can be known."""
    try:
        options = inspect.signature(factory, eval_str=True).parameters.values()
    except (NameError, TypeError, ValueError):  # names that only a type checker knows
        return {}
    return {option.name: option.annotation for option in options}


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether what a command line may bring is of the type that an option has."""
    if type(value) not in PLAIN and not isinstance(value, Path):
        return True  # Python's own callers have a type checker
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        # Which words there are is for the environment to tell.
        return type(value) in map(type, get_args(hint))
    kind = get_origin(hint) or hint
    if kind in (Any, inspect.Parameter.empty) or not isinstance(kind, type):
        return True
    if isinstance(value, bool):
        return kind in (bool, object)
    try:
        return isinstance(value, (int, float) if kind is float else kind)
    except TypeError:  # a protocol
        return True


PLAIN = (bool, int, float, str, list, dict, type(None))
