"""A policy that keeps one number for every pair of observation and action, in a hashed table."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trialgym.core import ActionSpec, seed_of
from trialgym.errors import BadInput
from trialgym.policy import Reply, Request
from trialgym.records import Message, PolicyInfo, Trajectory, Turn
from trialgym.registry import AGENT_FILE


class Table:
    """Draws an admissible action by the softmax of its numbers; a trainer moves the numbers.

    Args:
        model: directory that `save` wrote; None starts from zeros.
        seed: of every draw at a temperature above 0.
        temperature: 0 takes the best action, 1 draws from the softmax.
    """

    needs_candidates = True

    def __init__(
        self, model: str | None = None, *, seed: int = 0, temperature: float = 0.0
    ) -> None:
        numbers = torch.zeros(4096) if model is None else load_file(Path(model, FILE))["numbers"]
        self.numbers = torch.nn.Parameter(numbers)
        self._info = PolicyInfo(model or "table", temperature=temperature, seed=seed)

    # What acts: `trialgym.Policy`.

    @property
    def info(self) -> PolicyInfo:
        return self._info

    def preamble(self, instruction: str, spec: ActionSpec) -> tuple[Message, ...]:
        return ()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        choices = request.spec.valid or ()
        if not choices:
            return Reply(None, problem="There is nothing to choose from.")
        with torch.no_grad():
            scores = self.numbers[_rows(request.observation, choices)]
        chosen = int(scores.argmax())
        if self._info.temperature > 0:
            generator = torch.Generator().manual_seed(request.seed)
            chances = torch.softmax(scores / self._info.temperature, dim=0)
            chosen = int(torch.multinomial(chances, 1, generator=generator))
        return Reply(choices[chosen], log_prob=float(torch.log_softmax(scores, dim=0)[chosen]))

    def forget(self, episode: str) -> None:
        """Nothing is kept between turns."""

    # What can be trained, saved and copied: `trialgym.policy.TrainablePolicy`.

    def with_info(self, info: PolicyInfo) -> "Table":
        view = Table()
        view.numbers, view._info = self.numbers, info
        return view

    def parameters(self) -> Sequence[torch.nn.Parameter]:
        return [self.numbers]

    def prepare(self, trajectory: Trajectory) -> list[tuple[torch.Tensor, int]]:
        return [_choice(turn) for turn in trajectory.turns]

    def log_probs(self, prepared: Sequence[Any]) -> torch.Tensor:
        rows = [
            torch.stack([torch.log_softmax(self.numbers[rows], 0)[at] for rows, at in turns])
            for turns in prepared
        ]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def clone(self) -> "Table":
        copy = Table()
        copy.numbers = torch.nn.Parameter(self.numbers.detach().clone())
        copy._info = replace(self._info)
        return copy

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        save_file({"numbers": self.numbers.detach()}, directory / FILE)
        (directory / AGENT_FILE).write_text(json.dumps({"agent": "table"}), encoding="utf-8")


FILE = "table.safetensors"


def _rows(observation: str, choices: Sequence[str]) -> torch.Tensor:
    # The last sentence is all that matters at a crossing, wherever the crossing is.
    seen = observation.rpartition(". ")[2]
    return torch.tensor([seed_of(seen, choice) % 4096 for choice in choices])


def _choice(turn: Turn) -> tuple[torch.Tensor, int]:
    if turn.action not in turn.candidates:
        raise BadInput(f"action `{turn.action[:80]}`; wanted one of the turn's candidates")
    return _rows(turn.observation, turn.candidates), turn.candidates.index(turn.action)
