"""Tasks and text environments: the words that every room speaks.

An environment is a pure core (`start`, `act`) under a thin Gymnasium shell. The core's states are
values, so a snapshot costs nothing and a fork at any turn is exact.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, SupportsFloat, TypeVar

import gymnasium
import numpy as np

from trialgym.errors import BadInput, NotReady, UnknownId

OBSERVATION_LIMIT = 16_000
"""Longest observation in characters; the shell cuts what is longer and says so."""
ACTION_LIMIT = 20_000
"""Longest action in characters that an environment is asked to understand."""


def seed_of(*parts: object) -> int:
    """Derive a 63-bit seed from any parts, equal in every process and on every machine."""
    digest = hashlib.blake2b(json.dumps([str(part) for part in parts]).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 1


class AnyText(gymnasium.Space[str]):
    """Any Unicode string of up to `max_length` characters.

    Gymnasium's `Text` needs a finite character set and, in the default asynchronous vector
    environment, returns blank text; this space refuses that path loudly instead.
    """

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw a short string, Unicode beyond ASCII included."""
        alphabet = "abcdefghijklmnopqrstuvwxyz  []():.,\n0123456789éßπ中🙂"
        length = int(self.np_random.integers(0, min(self.max_length, 32) + 1))
        return "".join(alphabet[i] for i in self.np_random.integers(0, len(alphabet), length))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText) and other.max_length == self.max_length

    __hash__ = gymnasium.Space.__hash__


@dataclass(frozen=True, slots=True)
class Task:
    """What an agent is asked to do, and the data that the environment builds it from."""

    id: str
    """`<task set>/<split>/<six-digit index>`: the same task on every machine and version."""
    env: str
    split: str
    instruction: str
    data: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able. May hold the truth; it never reaches the agent but through observations."""

    @property
    def index(self) -> int:
        return int(self.id.rsplit("/", 1)[1])


class TaskSet(ABC):
    """The tasks of an environment: a pure function of split and index, or a file's rows."""

    name: str
    """First part of the task ids."""
    env: str
    """Registry id of the environment."""
    splits: Mapping[str, int | None]
    """Size of each split; `None` for a generated split without end."""

    @abstractmethod
    def build(self, split: str, index: int) -> Task:
        """Build one task; equal arguments give equal tasks, in every process."""

    def content(self, task: Task) -> str:
        """Tell what the task really is, so that two splits can be proven disjoint by content."""
        return json.dumps([task.instruction, task.data], sort_keys=True, default=str)

    def task_id(self, split: str, index: int) -> str:
        return f"{self.name}/{split}/{index:06d}"

    def __getitem__(self, task_id: str) -> Task:
        return self.build(*self.check(task_id))

    def check(self, task_id: str) -> tuple[str, int]:
        """Take a task id apart into split and index, without building the task.

        Raises:
            BadInput: a malformed id, or an index past the split's end.
            UnknownId: a split that this task set does not have.
        """
        name, _, rest = task_id.partition("/")
        split, _, digits = rest.rpartition("/")
        if name != self.name or not (digits.isdecimal() and digits.isascii() and len(digits) < 19):
            wanted = f"`{self.name}/<split>/<index>`, such as `{self.task_id(self.first_split, 0)}`"
            raise BadInput(f"task id `{task_id[:200]}`; wanted {wanted}; see `trialgym envs`")
        size = self.size(split)
        index = int(digits)
        if size is not None and index >= size:
            raise BadInput(
                f"task id `{task_id[:200]}`; split `{split}` has {size} tasks; "
                f"use an index below {size}"
            )
        return split, index

    @property
    def first_split(self) -> str:
        return next(iter(self.splits))

    def size(self, split: str) -> int | None:
        if split not in self.splits:
            raise UnknownId(f"split of task set {self.name}", split, self.splits)
        return self.splits[split]

    def ids(self, split: str, count: int | None = None, start: int = 0) -> list[str]:
        """List ids of a split; `count` may be left out where the split is finite."""
        size = self.size(split)
        if count is None:
            if size is None:
                raise BadInput(f"split `{split}` has no end; say how many tasks you want")
            count = max(size - start, 0)
        if size is not None and start + count > size:
            raise BadInput(
                f"{count} tasks from index {start}; split `{split}` has {size}; ask for fewer"
            )
        return [self.task_id(split, index) for index in range(start, start + count)]

    def __iter__(self) -> Iterator[Task]:
        """Yield every task of the finite splits."""
        for split, size in self.splits.items():
            for index in range(size or 0):
                yield self.build(split, index)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an action led to."""

    observation: str
    score: float = 0.0
    """Score of the episode so far, in [0, 1]; the shell turns differences into rewards."""
    success: bool = False
    done: bool = False
    invalid: bool = False
    """The action was not understood or not possible; the observation says how to mend it."""


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """What an agent is told about its actions."""

    grammar: str
    """The actions in prose and patterns, for a prompt."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The same as JSON schemas of function calls."""
    valid: tuple[str, ...] | None = None
    """Every admissible action right now, where the environment can list them."""


State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[State]):
    """An episode at one moment. Restoring continues from there; any number of times."""

    task: Task
    actions: tuple[str, ...]
    """Every action so far: what restoring replays where the state cannot be kept."""
    state: State | None
    observation: str
    score: float
    success: bool
    over: bool


class TextEnv(gymnasium.Env[str, str], Generic[State]):
    """A Gymnasium environment whose observations and actions are text.

    A subclass gives `tasks`, `start` and `act`, and where the truth allows `solve` (the expert) and
    `admissible`. States must be values: `act` returns a new one and leaves the old one as it was.
    Where a state cannot be a value (a live server), set `live`: snapshots then replay the actions.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]
    version: ClassVar[str] = "0"
    """Changes whenever scores may change; stored with every trajectory."""
    live: ClassVar[bool] = False
    """Whether states are handles on something outside, so that forking must replay."""
    blocking: ClassVar[bool] = False
    """Whether a step waits on something outside, so that rollouts give it a thread."""
    cap_keeps_score: ClassVar[bool] = True
    """Whether the score stands when the turn budget runs out (WebShop's does not)."""
    tasks: TaskSet

    def __init__(
        self,
        tasks: TaskSet,
        *,
        split: str | None = None,
        max_turns: int = 30,
        admissible: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if max_turns < 1:
            raise BadInput(
                f"max_turns {max_turns}; wanted at least 1; leave it out for the default"
            )
        if render_mode not in (None, "ansi"):
            raise BadInput(f"render_mode `{render_mode}`; wanted `ansi` or None")
        self.tasks = tasks
        self.split = tasks.first_split if split is None else split
        tasks.size(self.split)
        self.max_turns = max_turns
        self.list_admissible = admissible
        self.render_mode = render_mode
        self.observation_space = AnyText(OBSERVATION_LIMIT)
        self.action_space = AnyText(ACTION_LIMIT)
        self._task: Task | None = None
        self._over = True

    # What a subclass gives.

    @abstractmethod
    def start(self, task: Task) -> tuple[State, str]:
        """Give the first state of a task and its first observation, the instruction included."""
        raise NotImplementedError

    @abstractmethod
    def act(self, state: State, action: str) -> tuple[State, Outcome]:
        """Give the state after an action, and what is seen. Any string is an action."""
        raise NotImplementedError

    def solve(self, state: State) -> str:
        """Give the expert's next action in `state`."""
        raise BadInput(f"{type(self).__name__} has no expert; use another agent")

    def fingerprint(self, state: State) -> str:
        """Text of what the state is, without counters and history; hashed by `state_hash`."""
        return repr(state)

    def admissible(self, state: State) -> tuple[str, ...] | None:
        """List every action that does something in `state`; None where there is no list."""
        return None

    def grammar(self) -> ActionSpec:
        """Describe the actions, the valid ones of the moment left out."""
        raise NotImplementedError

    # The Gymnasium shell.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the private generator, which then picks the task from the env's split.
            options: `{"task": id}` or `{"task": Task}` asks for one task; `{"split": name}` draws
                from another split.

        Raises:
            BadInput: an unknown option, a malformed task id, an index past the split's end, or a
                seed that is no whole number.
            UnknownId: a split that the task set does not have.
        """
        if seed is not None and not (isinstance(seed, int) and seed >= 0):
            raise BadInput(f"seed {seed!r}; wanted a whole number from 0 up, or None")
        super().reset(seed=seed)
        options = dict(options or {})
        wanted, split = options.pop("task", None), options.pop("split", self.split)
        if options:
            raise BadInput(f"reset options {sorted(options)}; wanted `task` or `split`")
        if wanted is None:
            size = self.tasks.size(split)
            index = int(self.np_random.integers(0, 2**31 if size is None else size))
            wanted = self.tasks.task_id(split, index)
        self._task = wanted if isinstance(wanted, Task) else self.tasks[str(wanted)]
        self._actions: list[str] = []
        self._score, self._success, self._over = 0.0, False, True
        self._state, observation = self.start(self._task)
        self._over = False
        self._observation = _bounded(observation)
        return self._observation, self._info(False)

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Act. Text that is no valid action gets an observation that says so, and costs a turn.

        Raises:
            NotReady: before the first `reset`, or after the episode's end.
            BadInput: `action` is not a string.
        """
        self._check_running()
        if not isinstance(action, str):
            raise BadInput(f"action of type {type(action).__name__}; wanted str; convert it first")
        if not action.isascii():
            action = action.encode("utf-8", "replace").decode()
        if len(action) > ACTION_LIMIT:
            return self._advance(
                None,
                Outcome(
                    f"The action has {len(action)} characters; at most {ACTION_LIMIT} are read. "
                    "Send a shorter one.",
                    self._score,
                    invalid=True,
                ),
            )
        self._state, outcome = self.act(self._state, action)
        return self._advance(action, outcome)

    def reject(self, reason: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Spend a turn on a reply that holds no action; `reason` is the observation."""
        self._check_running()
        return self._advance(None, Outcome(reason, self._score, invalid=True))

    def _advance(
        self, action: str | None, outcome: Outcome
    ) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        self._actions.append(_REJECTED if action is None else action)
        truncated = not outcome.done and len(self._actions) >= self.max_turns
        score = 0.0 if truncated and not self.cap_keeps_score else outcome.score
        reward = score - self._score
        self._score, self._success = score, outcome.success
        self._over = outcome.done or truncated
        self._observation = _bounded(outcome.observation)
        return self._observation, reward, outcome.done, truncated, self._info(outcome.invalid)

    def _info(self, invalid: bool) -> dict[str, Any]:
        assert self._task is not None
        info: dict[str, Any] = {
            "task_id": self._task.id,
            "score": self._score,
            "success": self._success,
            "invalid": invalid,
        }
        if self.list_admissible:
            valid = None if self._over else self.admissible(self._state)
            info["admissible_commands"] = list(valid or ())
        return info

    def _check_running(self) -> None:
        if self._over:
            state = "has ended" if self._task is not None else "has not begun"
            raise NotReady(f"the episode {state}; call `reset` first")

    def render(self) -> str | None:
        """Give the last observation as text."""
        return self._observation if self.render_mode == "ansi" and self._task else None

    # What Gymnasium does not have.

    @property
    def task(self) -> Task:
        """The task of the running or last episode."""
        if self._task is None:
            raise NotReady("no episode has begun; call `reset` first")
        return self._task

    @property
    def turns(self) -> int:
        """Turns taken in this episode."""
        return len(self._actions) if self._task is not None else 0

    def snapshot(self) -> Snapshot[State]:
        """Keep this moment of the episode."""
        return Snapshot(
            self.task,
            tuple(self._actions),
            None if self.live else self._state,
            self._observation,
            self._score,
            self._success,
            self._over,
        )

    def restore(self, snapshot: Snapshot[State]) -> str:
        """Go back to a kept moment, also one of another environment of the same kind.

        Returns:
            The observation of that moment.
        """
        if snapshot.state is None:
            self.reset(options={"task": snapshot.task})
            for action in snapshot.actions:
                if action == _REJECTED:
                    self.reject("")
                else:
                    self.step(action)
        else:
            self._task, self._state = snapshot.task, snapshot.state
            self._actions = list(snapshot.actions)
            self._score, self._success = snapshot.score, snapshot.success
            self._over = snapshot.over
        self._observation = snapshot.observation
        return self._observation

    def state_hash(self) -> str:
        """Hash what the state is: equal for equal states, however they were reached."""
        text = f"{self.task.id}\n{self.fingerprint(self._state)}"
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()

    def expert(self) -> str:
        """Give an action that leads on to success from here, where the task's truth allows one."""
        self._check_running()
        return self.solve(self._state)

    def actions(self) -> ActionSpec:
        """Tell what an agent may do here."""
        spec = self.grammar()
        valid = None if self._over else self.admissible(self._state)
        return ActionSpec(spec.grammar, spec.tools, valid)


_REJECTED = "\ud800rejected"
"""Marks, among recorded actions, a turn that reached no `act`; `step` lets no lone surrogate in."""


def _bounded(text: str) -> str:
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    if len(text) <= OBSERVATION_LIMIT:
        return text
    note = f"\n[truncated {len(text) - OBSERVATION_LIMIT + 64} characters]"
    return text[: OBSERVATION_LIMIT - 64] + note
