"""Many text environments at once, by Gymnasium's conventions for vectors.

Three back ends run the slots: `inline` in this thread (the fastest where a step costs
microseconds), `thread` in a pool (for environments that wait on something outside) and `process`
in workers that own a block of slots each and get one message a step for the whole block. Every slot
has its own generator, so its episodes depend neither on the back end nor on the other slots.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from trialgym.errors import BadInput, NotReady
from trialgym.registry import find, make, table

from .vector_backends import BACKENDS, MOST_WORKERS, Call, Factory, SlotStep, raise_first

Array = np.ndarray[Any, np.dtype[Any]]


class TextVectorEnv(VectorEnv[tuple[str, ...], Sequence[str], Array]):
    """Slots of text environments that step together, or some of them at a time.

    Args:
        factories: one for each slot; they may differ in options, or in the environment.
        backend: `inline`, `thread` or `process`.
        autoreset_mode: `SAME_STEP` resets a slot in the step that ends its episode and keeps the
            last observation and info as `final_obs` and `final_info`; `DISABLED` leaves it ended.
        workers: threads or processes; by default one for each slot, at most 64 threads and one
            process a core.
    """

    def __init__(
        self,
        factories: Sequence[Factory],
        *,
        backend: str = "inline",
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        workers: int | None = None,
    ) -> None:
        self.closed = True
        mode = _mode(autoreset_mode)
        if backend not in BACKENDS:
            raise BadInput(f"backend `{backend}`; wanted one of {', '.join(BACKENDS)}")
        if not factories or (workers is not None and workers < 1):
            raise BadInput(f"{len(factories)} slots, {workers} workers; wanted at least 1 of each")
        self.num_envs = len(factories)
        workers = min(workers or MOST_WORKERS[backend], self.num_envs)
        self._backend = BACKENDS[backend](factories, mode is AutoresetMode.SAME_STEP, workers)
        self.closed = False
        self.metadata = self.call("metadata", slots=[0])[0] | {"autoreset_mode": mode}
        self.single_observation_space = self.call("observation_space", slots=[0])[0]
        self.single_action_space = self.call("action_space", slots=[0])[0]
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._observations = [""] * self.num_envs

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Start an episode in every slot.

        Args:
            seed: slot `i` gets `seed + i`, or the `i`-th of a sequence.
            options: for every slot the same, or a sequence of one for each. `reset_mask` in a
                mapping, a boolean array, says which slots to reset.
        """
        seeds = self._seeds(seed)
        given, slots = self._options(options)
        calls = [(slot, (seeds[slot], given[slot])) for slot in slots]
        infos: dict[int, Mapping[str, Any]] = {}
        for slot, (observation, info) in zip(slots, self._run("reset", calls), strict=True):
            self._observations[slot] = observation
            infos[slot] = info
        return tuple(self._observations), batch_infos(infos, self.num_envs)

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], Array, Array, Array, dict[str, Any]]:
        """Act in every slot."""
        steps = self._step(range(self.num_envs), actions)
        observations, rewards, terminated, truncated, infos, last, last_infos = zip(
            *steps, strict=True
        )
        batch = batch_infos(dict(enumerate(infos)), self.num_envs)
        ended = [slot for slot, info in enumerate(last_infos) if info is not None]
        if ended:
            finals = {
                slot: {"final_obs": last[slot], "final_info": last_infos[slot]} for slot in ended
            }
            batch |= batch_infos(finals, self.num_envs)
        return (
            observations,
            np.array(rewards, np.float64),
            np.array(terminated, np.bool_),
            np.array(truncated, np.bool_),
            batch,
        )

    def step_some(self, slots: Sequence[int], actions: Sequence[str]) -> list[SlotStep]:
        """Act in the given slots only; the others stay as they are.

        Raises:
            BadInput: a slot that does not exist or comes twice, or an action that is no text;
                nothing was stepped.
            NotReady: without autoreset, a slot's episode has ended; the other slots have stepped.
            Fault: a worker process died.
        """
        self._check(slots)
        return [SlotStep(*step) for step in self._step(slots, actions)]

    def _step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Any]:
        if isinstance(actions, str) or len(actions) != len(slots):
            raise BadInput(f"{len(actions)} actions for {len(slots)} slots; wanted one for each")
        for action in actions:
            if not isinstance(action, str):
                raise BadInput(f"action of type {type(action).__name__}; wanted str")
        steps = self._run("step", [(slot, (a,)) for slot, a in zip(slots, actions, strict=True)])
        for slot, step in zip(slots, steps, strict=True):
            self._observations[slot] = step[0]
        return steps

    def call(
        self, name: str, *arguments: Any, slots: Sequence[int] | None = None
    ) -> tuple[Any, ...]:
        """Call a method of the environments, or read an attribute: `expert`, `actions`, `task`."""
        asked = range(self.num_envs) if slots is None else slots
        self._check(asked)
        return tuple(self._run("call", [(slot, (name, arguments)) for slot in asked]))

    def render(self) -> tuple[Any, ...]:
        return self.call("render")

    def close_extras(self) -> None:
        self._backend.close()

    def _run(self, verb: str, calls: Sequence[Call]) -> list[Any]:
        if self.closed:
            raise NotReady("the vector is closed; make a new one")
        answers = self._backend.run(verb, calls)
        raise_first((slot for slot, _ in calls), answers, "slot")
        return answers

    def _check(self, slots: Sequence[int]) -> None:
        if len(set(slots)) != len(slots) or not all(0 <= slot < self.num_envs for slot in slots):
            raise BadInput(f"slots {list(slots)}; wanted different ones below {self.num_envs}")

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + slot for slot in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise BadInput(f"{len(seed)} seeds for {self.num_envs} slots; wanted one for each")
        return seed

    def _options(
        self, options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
    ) -> tuple[list[dict[str, Any] | None], list[int]]:
        everyone = list(range(self.num_envs))
        if options is None:
            return [None] * self.num_envs, everyone
        if isinstance(options, Mapping):
            shared = dict(options)
            mask = shared.pop("reset_mask", None)
            return [dict(shared) for _ in everyone], self._masked(mask)
        if len(options) != self.num_envs:
            raise BadInput(f"{len(options)} options for {self.num_envs} slots; wanted one for each")
        return [None if each is None else dict(each) for each in options], everyone

    def _masked(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        wanted = np.asarray(mask)
        if wanted.dtype != np.bool_ or wanted.shape != (self.num_envs,) or not wanted.any():
            raise BadInput(f"reset_mask {mask!r}; wanted {self.num_envs} bools, one of them true")
        return [int(slot) for slot in np.flatnonzero(wanted)]


def _mode(given: AutoresetMode | str) -> AutoresetMode:
    mode = AutoresetMode(given) if given in {each.value for each in AutoresetMode} else given
    if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        raise BadInput(
            f"autoreset_mode {given}; wanted SAME_STEP or DISABLED; "
            "NEXT_STEP would throw away one reply an episode"
        )
    return cast("AutoresetMode", mode)


def batch_infos(infos: Mapping[int, Mapping[str, Any]], width: int) -> dict[str, Any]:
    """Give for each key an array over the slots and, as `_key`, which slots have it."""
    batch: dict[str, Any] = {}
    for key in {key: None for info in infos.values() for key in info}:
        slots = [slot for slot, info in infos.items() if key in info]
        values = [infos[slot][key] for slot in slots]
        kinds = set(map(type, values))
        if kinds == {dict} and key != "final_obs":
            batch[key] = batch_infos(dict(zip(slots, values, strict=True)), width)
        else:
            batch[key] = _column(slots, values, kinds, width)
        batch[f"_{key}"] = _mask(slots, width)
    return batch


def _mask(slots: list[int], width: int) -> Array:
    if len(slots) == width:
        return np.ones(width, np.bool_)
    mask = np.zeros(width, np.bool_)
    mask[slots] = True
    return mask


def _column(slots: list[int], values: list[Any], kinds: set[type], width: int) -> Array:
    kind = _number_type(kinds)
    if len(values) == width and (kind is not object or kinds == {str}):
        return np.array(values, kind)
    column: Array = np.full(width, None, kind) if kind is object else np.zeros(width, kind)
    for slot, value in zip(slots, values, strict=True):
        column[slot] = value
    return column


def _number_type(kinds: set[type]) -> type:
    if kinds == {int, float}:
        return float
    return next(iter(kinds)) if kinds in ({int}, {float}, {bool}) else object


def make_vec(
    name: str,
    num_envs: int = 1,
    *,
    backend: str = "inline",
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    workers: int | None = None,
    **options: Any,
) -> TextVectorEnv:
    """Make a vector of one registered environment.

    Args:
        name: a registry id, such as `trialgym/Household-v0`.
        num_envs: how many slots.
        backend: `inline`, `thread` or `process`.
        autoreset_mode: `SAME_STEP` or `DISABLED`.
        workers: threads or processes.
        options: the environment's own options, the same in every slot.
    """
    find("env", name)
    factories = [partial(make, name, **options)] * num_envs
    return TextVectorEnv(factories, backend=backend, autoreset_mode=autoreset_mode, workers=workers)


def __getattr__(name: str) -> Callable[..., TextVectorEnv]:
    """Let `trialgym.envs.vector:<registry id>` name an id's vector maker.

    Gymnasium calls a vector entry point without the id, and writes only text entry points to JSON.
    """
    if name not in table("env"):
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return partial(make_vec, name)
