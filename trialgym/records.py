"""The one record that every method reads and writes: what happened in an episode, turn by turn."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, Self, get_args

from trialgym.errors import BadFile

Json = dict[str, Any]


class StopReason(StrEnum):
    """Why an episode ended."""

    SUCCESS = "success"
    """The goal was reached."""
    FAILURE = "failure"
    """The environment ended the episode and the goal was not reached."""
    MAX_TURNS = "max_turns"
    """The turn budget ran out."""
    CONTEXT = "context"
    """The policy's context window ran out."""
    TIME = "time"
    """The wall-clock budget ran out."""
    FAULT = "fault"
    """Infrastructure failed after every retry; carries no verdict on the agent."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. `loss` says whether a trainer may learn from it."""

    role: str
    content: str
    loss: bool = False


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """Which policy acted; enough to tell two policies apart in a table."""

    name: str
    """Registry id or model path, with the checkpoint where there is one."""
    adapter: str | None = None
    iteration: int = 0
    """Training rounds behind this policy; 0 is behaviour cloning or an untrained policy."""
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One observation and the reply to it."""

    observation: str
    """What the policy saw before it acted."""
    action: str
    """What reached the environment; empty when the reply could not be parsed."""
    text: str = ""
    """The policy's raw output, thought and format included; may be empty for scripted policies."""
    thought: str = ""
    reward: float = 0.0
    valid: bool = True
    state_hash: str = ""
    """Hash of the state that the action was chosen in."""
    candidates: tuple[str, ...] = ()
    """The admissible actions at that moment, where the environment lists them."""
    log_prob: float | None = None
    """Log-probability of the action under the policy that chose it, in nats."""
    prompt_ids: tuple[int, ...] = ()
    """Token ids appended before the reply: the new observation and the generation prompt."""
    token_ids: tuple[int, ...] = ()
    """Token ids of the reply, end-of-turn token included, exactly as sampled."""
    token_log_probs: tuple[float, ...] = ()
    loss: bool = True
    """Whether a trainer may learn from this reply (NAT, Agent-R and AgentTuning need it a turn)."""
    judge: Mapping[str, Any] | None = None
    """A judge's `score` and `explanation`."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode. A bad rollout is data, not a crash."""

    env: str
    task_id: str
    split: str
    instruction: str
    turns: tuple[Turn, ...]
    final_observation: str
    score: float
    """Sum of the rewards, in [0, 1]."""
    success: bool
    stop: StopReason
    policy: PolicyInfo
    sample: int = 0
    """Which of several episodes of the same policy on the same task."""
    group: str = ""
    """What the episode was collected for, such as `explore/1` or `evaluate/test`."""
    env_version: str = ""
    preamble: tuple[Message, ...] = ()
    """Messages before the first observation: system prompt, format instructions."""
    error: str = ""
    """What failed, when `stop` is `fault`."""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same key however often, and on whatever machine, the episode is collected."""
        return episode_key(self.group, self.env, self.task_id, self.policy, self.sample)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The episode as a chat: the preamble, then observations (user) and replies (assistant)."""
        chat = list(self.preamble)
        for turn in self.turns:
            chat.append(Message("user", turn.observation))
            chat.append(Message("assistant", turn.text or turn.action, loss=turn.loss))
        if self.final_observation:
            chat.append(Message("user", self.final_observation))
        return tuple(chat)

    @property
    def faulty(self) -> bool:
        """Whether infrastructure failed, so that the score says nothing about the agent."""
        return self.stop is StopReason.FAULT

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(turn.action for turn in self.turns)

    def cut(self, turns: int) -> Self:
        """Keep the first `turns` turns; the final observation becomes the next one seen."""
        if turns >= len(self.turns):
            return self
        return replace(
            self, turns=self.turns[:turns], final_observation=self.turns[turns].observation
        )

    def to_json(self) -> Json:
        """Give plain values, the derived `id` among them; `from_json` takes them back."""
        # Not `asdict`: its deep copies took a sixth of a rollout's time.
        row = {name: getattr(self, name) for name in TRAJECTORY_FIELDS}
        row["turns"] = [{name: getattr(turn, name) for name in TURN_FIELDS} for turn in self.turns]
        row["preamble"] = [asdict(message) for message in self.preamble]
        return row | {"policy": asdict(self.policy), "stop": str(self.stop), "id": self.id}

    @classmethod
    def from_json(cls, row: Json) -> Self:
        """Rebuild from `to_json`'s dictionary; unknown keys are refused by the constructor."""
        fields: Json = {key: value for key, value in row.items() if key != "id"}
        fields["turns"] = tuple(Turn(**_with_tuples(turn)) for turn in fields["turns"])
        fields["preamble"] = tuple(Message(**message) for message in fields.get("preamble", ()))
        fields["policy"] = PolicyInfo(**fields["policy"])
        fields["stop"] = StopReason(fields["stop"])
        return cls(**fields)


TURN_FIELDS = tuple(field.name for field in fields(Turn))
TRAJECTORY_FIELDS = tuple(field.name for field in fields(Trajectory))


def _with_tuples(row: Json) -> Json:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def read_line(path: Path, number: int, line: Any) -> Trajectory:
    """Read a line that holds `to_json`'s dictionary.

    Raises:
        BadFile: the line is no such record; names the line of `path`, and the field.
    """
    try:
        row = json.loads(line)
        _check(path, number, row, Trajectory, "")
        _check(path, number, row["policy"], PolicyInfo, "policy.")
        for kind, name in ((Turn, "turns"), (Message, "preamble")):
            for index, item in enumerate(row.get(name, ())):
                _check(path, number, item, kind, f"{name}[{index}].")
        return Trajectory.from_json(row)
    except BadFile:
        raise
    except json.JSONDecodeError as error:
        raise BadFile(path, f"not JSON ({error.msg})", line=number) from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadFile(path, f"not a trajectory ({error})", line=number) from error


def _check(path: Path, number: int, row: Any, kind: type[Any], prefix: str) -> None:
    """Refuse a record with a missing, an unknown or a mistyped field."""
    if not isinstance(row, dict):
        raise BadFile(path, "wanted a JSON object", line=number, field=prefix.rstrip(".") or None)
    known = {one.name: one for one in fields(kind)}
    for name in sorted(row.keys() - known.keys() - {"id"}):
        raise BadFile(path, "unknown", line=number, field=prefix + str(name))
    for name, known_field in known.items():
        if name not in row:
            if known_field.default is MISSING and known_field.default_factory is MISSING:
                raise BadFile(path, "missing", line=number, field=prefix + name)
            continue
        wanted = _JSON_TYPES.get(known_field.type, ())
        _check_type(path, number, row[name], wanted, prefix + name)
        if list in wanted:
            within = _JSON_TYPES.get(get_args(known_field.type)[0], ())
            for index, item in enumerate(row[name]):
                _check_type(path, number, item, within, f"{prefix}{name}[{index}]")


def _check_type(path: Path, number: int, value: Any, wanted: tuple[type, ...], name: str) -> None:
    if wanted and (not isinstance(value, wanted) or (value is True and bool not in wanted)):
        problem = f"{type(value).__name__} `{str(value)[:80]}`; wanted {wanted[0].__name__}"
        raise BadFile(path, problem, line=number, field=name)


_JSON_TYPES: dict[Any, tuple[type, ...]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str | None: (str, NoneType),
    float | None: (float, int, NoneType),
    Mapping[str, Any] | None: (dict, NoneType),
    StopReason: (str,),
    tuple[Turn, ...]: (list,),
    tuple[Message, ...]: (list,),
    tuple[str, ...]: (list,),
    tuple[int, ...]: (list,),
    tuple[float, ...]: (list,),
}
"""What JSON may hold where a record has a field of a type; types that are not here go unchecked."""


def episode_key(group: str, env: str, task_id: str, policy: PolicyInfo, sample: int) -> str:
    """Key of an episode before it is run: what resuming compares."""
    parts: list[object] = [group, env, task_id, policy.name, policy.adapter, policy.iteration]
    parts += [policy.temperature, policy.seed, sample]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def wilson(successes: int, episodes: int, z: float = 1.959964) -> tuple[float, float]:
    """Give the 95 % Wilson score interval of a success rate (Wilson 1927)."""
    if episodes == 0:
        return 0.0, 1.0
    rate = successes / episodes
    scale = 1 + z * z / episodes
    middle = (rate + z * z / (2 * episodes)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / episodes + z * z / (4 * episodes**2))
    # At the ends the bounds are exact; rounding would leave 0.9999999999999998.
    low = middle - half if successes else 0.0
    return low, middle + half if successes < episodes else 1.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a set of episodes says; faults are counted apart and enter no rate."""

    episodes: int
    success_rate: float
    low: float
    high: float
    """95 % Wilson interval of the success rate."""
    score_mean: float
    invalid_rate: float
    """Invalid turns over all turns."""
    turns_mean: float
    env_steps: int
    faults: int

    def to_json(self) -> Json:
        return asdict(self)


def summarise(trajectories: Iterable[Trajectory]) -> Summary:
    """Count successes, scores, invalid turns and faults."""
    everything = list(trajectories)
    judged: Sequence[Trajectory] = [t for t in everything if not t.faulty]
    episodes = len(judged)
    wins = sum(t.success for t in judged)
    turns = sum(len(t.turns) for t in judged)
    low, high = wilson(wins, episodes)
    return Summary(
        episodes=episodes,
        success_rate=wins / episodes if episodes else 0.0,
        low=low,
        high=high,
        score_mean=sum(t.score for t in judged) / episodes if episodes else 0.0,
        invalid_rate=sum(not turn.valid for t in judged for turn in t.turns) / max(turns, 1),
        turns_mean=turns / episodes if episodes else 0.0,
        env_steps=sum(len(t.turns) for t in everything),
        faults=len(everything) - episodes,
    )
