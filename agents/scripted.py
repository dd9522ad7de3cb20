"""Policies that no one trains: the expert, the baselines, and a recorded model."""

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trialgym.core import ActionSpec
from trialgym.errors import BadInput
from trialgym.policy import Reply, Request
from trialgym.records import Message, PolicyInfo, Trajectory
from trialgym.store import read_file


class Scripted:
    """What every scripted policy shares: a name, and nothing to remember between turns."""

    needs_candidates = False

    def __init__(self, name: str, seed: int = 0) -> None:
        self._info = PolicyInfo(name, seed=seed)

    @property
    def info(self) -> PolicyInfo:
        return self._info

    def preamble(self, instruction: str, spec: ActionSpec) -> tuple[Message, ...]:
        return ()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(self.reply(request)) for request in requests]

    def reply(self, request: Request) -> str:
        raise NotImplementedError

    def forget(self, episode: str) -> None:
        pass


class Expert(Scripted):
    """Asks the environment's own expert: proof that a task can be solved, and a demonstrator."""

    def __init__(self) -> None:
        super().__init__("expert")

    def reply(self, request: Request) -> str:
        return request.expert()


class Random(Scripted):
    """Draws an admissible action, or a word of the observation where none are listed."""

    needs_candidates = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__("random", seed)

    def reply(self, request: Request) -> str:
        choices = request.spec.valid or request.observation.split() or [""]
        return random.Random(request.seed).choice(choices)


class Null(Scripted):
    """Does nothing, for ever."""

    def __init__(self) -> None:
        super().__init__("null")

    def reply(self, request: Request) -> str:
        return ""


class Replay(Scripted):
    """Plays back recorded replies, so that a whole loop runs without a model.

    Args:
        recorded: trajectories, or a file of them (`.jsonl`, `.parquet`).
    """

    def __init__(self, recorded: Path | str | Iterable[Trajectory]) -> None:
        super().__init__("replay")
        if isinstance(recorded, (str, Path)):
            recorded = read_file(recorded)
        self._episodes: Mapping[str, Trajectory] = {
            trajectory.instruction + "\n" + trajectory.turns[0].observation: trajectory
            for trajectory in recorded
            if trajectory.turns
        }

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._again(request) for request in requests]

    def _again(self, request: Request) -> Reply:
        first = request.turns[0].observation if request.turns else request.observation
        recorded = self._episodes.get(request.instruction + "\n" + first)
        if recorded is None:
            raise BadInput(
                f"no recorded episode of the task `{request.instruction[:200]}`; "
                "roll out only the tasks that were recorded"
            )
        number = len(request.turns)
        if number >= len(recorded.turns):
            return Reply("")
        turn, after = recorded.turns[number], recorded.cut(number + 1).final_observation
        rejected = bool(turn.text) and not turn.action
        return Reply(
            action=None if rejected else turn.action,
            text=turn.text,
            thought=turn.thought,
            problem=after if rejected else "",
            log_prob=turn.log_prob,
            prompt_ids=turn.prompt_ids,
            token_ids=turn.token_ids,
            token_log_probs=turn.token_log_probs,
        )
