"""Who acts: what a policy is asked, what it answers, and what a trainer needs of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trialgym.core import ActionSpec
from trialgym.records import Message, PolicyInfo, Trajectory, Turn


@dataclass(frozen=True, slots=True)
class Request:
    """What a policy is asked: the episode so far, and the observation to answer."""

    episode: str
    """Key of the episode; an engine may keep its cache under it."""
    instruction: str
    observation: str
    turns: Sequence[Turn]
    """The turns before this one."""
    spec: ActionSpec
    seed: int
    """Seed of this very reply: the same whatever else runs beside it."""
    expert: Callable[[], str]
    """The environment's expert; only the scripted expert may call it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a policy answers."""

    action: str | None
    """The action for the environment; None when the text holds none."""
    text: str = ""
    thought: str = ""
    problem: str = ""
    """The observation that a reply without an action gets."""
    log_prob: float | None = None
    prompt_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    token_log_probs: tuple[float, ...] = ()
    out_of_context: bool = False
    """The context window is full: the episode ends, with nothing sent to the environment."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A trajectory as one row of tokens: what a language model is trained on."""

    ids: tuple[int, ...]
    turn: tuple[int, ...]
    """For each token the index of the turn whose reply it is part of; -1 for what the policy was
    given (instruction, observations, role headers)."""
    loss: tuple[bool, ...]
    """For each token whether it is trained: reply tokens, end-of-turn included, of turns with
    `loss` set."""
    allowed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Position of a reply token -> the token ids that restricted decoding allowed there; empty
    where decoding was free."""


@runtime_checkable
class Policy(Protocol):
    """Who acts. Answers any number of requests at once; requests of one episode come in order."""

    @property
    def info(self) -> PolicyInfo: ...

    @property
    def needs_candidates(self) -> bool:
        """Whether requests must list the admissible actions."""
        ...

    def preamble(self, instruction: str, spec: ActionSpec) -> tuple[Message, ...]:
        """Give the messages before the first observation."""
        ...

    def act(self, requests: Sequence[Request]) -> Sequence[Reply]: ...

    def forget(self, episode: str) -> None:
        """Free what is kept for an episode; called once at its end."""
        ...


@runtime_checkable
class TrainablePolicy(Policy, Protocol):
    """A policy whose log-probabilities a trainer can raise and lower."""

    def with_info(self, info: PolicyInfo) -> "TrainablePolicy":
        """Give a view of the same weights under another name, temperature or seed."""
        ...

    def parameters(self) -> Sequence[Any]:
        """List the torch parameters to train."""
        ...

    def prepare(self, trajectory: Trajectory) -> Any:
        """Turn a trajectory into what `log_probs` reads; done once, used every epoch."""
        ...

    def log_probs(self, prepared: Sequence[Any]) -> Any:
        """Score the actions of prepared trajectories.

        Returns:
            Differentiable tensor (trajectories, turns) of action log-probabilities in nats; zero
            past a trajectory's end.
        """
        ...

    def clone(self) -> "TrainablePolicy":
        """Copy the weights: a frozen reference."""
        ...

    def save(self, directory: Path) -> None: ...


@runtime_checkable
class LanguagePolicy(TrainablePolicy, Protocol):
    """A causal language model with its tokenizer and prompt format."""

    @property
    def model(self) -> Any:
        """The `transformers` model, with its PEFT adapter where it has one."""
        ...

    @property
    def tokenizer(self) -> Any: ...

    def encode(self, trajectory: Trajectory) -> Encoding:
        """Give an episode's exact tokens: as sampled where known, else as the format renders them.

        Raises:
            BadInput: the chat template is not prefix-stable, so no exact mask exists.
        """
        ...
