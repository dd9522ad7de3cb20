"""A small network that ranks the admissible actions: the laptop's policy, and everyone's baseline.

Hashed text features of a candidate (`features.py`) are summed through an embedding table, a small
network scores the sum, and a softmax over the candidates gives exact log-probabilities. Acting runs
in NumPy, one request at a time, so that a reply never depends on what else is in the batch: a run
that was killed and resumed gives the same actions to the last bit.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialgym.core import ActionSpec, seed_of
from trialgym.errors import BadFile, BadInput, MissingExtra
from trialgym.policy import Reply, Request
from trialgym.records import Message, PolicyInfo, Trajectory, Turn
from trialgym.registry import AGENT_FILE

from .features import VERSION, Memory, features

try:
    import torch
    from safetensors.torch import load_file, save_file
except ImportError as error:
    raise MissingExtra("torch", "train") from error

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trajectory as arrays."""

    indices: torch.Tensor
    """(candidates of all turns, templates): rows of the embedding table."""
    turn: torch.Tensor
    """(candidates of all turns,): the turn that a candidate belongs to."""
    chosen: torch.Tensor
    """(turns,): position of the action taken, among the candidates of all turns."""


class _Network(torch.nn.Module):
    def __init__(self, buckets: int, width: int, hidden: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(torch.randn(buckets, width, generator=generator) * 0.1)
        scale = width**-0.5
        self.hidden = torch.nn.Parameter(torch.randn(width, hidden, generator=generator) * scale)
        self.bias = torch.nn.Parameter(torch.zeros(hidden))
        self.out = torch.nn.Parameter(torch.randn(hidden, generator=generator) * hidden**-0.5)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        summed = torch.nn.functional.embedding_bag(indices, self.table, mode="sum")
        return torch.relu(summed @ self.hidden + self.bias) @ self.out


class Ranker:
    """Ranks admissible actions. Needs an environment that lists them.

    Args:
        model: directory that `save` wrote; None for fresh weights drawn from `seed`.
        seed: of fresh weights, and of every draw at a temperature above 0.
        temperature: 0 takes the best action, 1 draws from the softmax.
        buckets: rows of the embedding table.
        width: numbers a row.
        hidden: units of the hidden layer.
    """

    needs_candidates = True

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        seed: int = 0,
        temperature: float = 0.0,
        buckets: int = 16384,
        width: int = 32,
        hidden: int = 64,
    ) -> None:
        name = "ranker"
        if model is not None:
            name, sizes = str(model), _read_settings(Path(model))
            buckets, width, hidden = sizes["buckets"], sizes["width"], sizes["hidden"]
        self.sizes = {"buckets": buckets, "width": width, "hidden": hidden}
        self.network = _Network(buckets, width, hidden, seed_of("ranker", seed) % 2**31)
        if model is not None:
            self.network.load_state_dict(load_file(Path(model) / WEIGHTS))
        self._info = PolicyInfo(name, temperature=temperature, seed=seed)
        self._arrays: tuple[NDArray[np.float32], ...] = ()
        self._memories: dict[str, Memory] = {}

    @property
    def info(self) -> PolicyInfo:
        return self._info

    def with_info(self, info: PolicyInfo) -> "Ranker":
        """Give a view of the same weights under another name, temperature or seed."""
        view = object.__new__(Ranker)
        view.sizes, view.network = self.sizes, self.network
        view._info, view._arrays, view._memories = info, (), {}
        return view

    def preamble(self, instruction: str, spec: ActionSpec) -> tuple[Message, ...]:
        return ()

    def forget(self, episode: str) -> None:
        self._memories.pop(episode, None)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        # Fresh arrays a batch: training may have moved the weights since the last one.
        self._arrays = tuple(value.detach().numpy() for value in self.network.parameters())
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        if not request.spec.valid:
            raise BadInput(
                "the ranker ranks admissible actions, and this environment lists none; "
                "use a language model, or an environment that lists them"
            )
        if request.episode not in self._memories:
            self._memories[request.episode] = Memory(request.instruction)
        memory = self._memories[request.episode]
        memory.catch_up(request.turns, request.observation)
        candidates = request.spec.valid
        rows = features(
            request.instruction, memory, request.observation, candidates, self.sizes["buckets"]
        )
        log_probs = _log_softmax(self._scores(rows))
        best = self._draw(log_probs, request.seed)
        return Reply(candidates[best], log_prob=float(log_probs[best]))

    def _scores(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        table, hidden, bias, out = self._arrays
        summed = table[rows].sum(axis=1)
        return np.asarray(np.maximum(summed @ hidden + bias, 0) @ out, dtype=np.float64)

    def _draw(self, log_probs: NDArray[np.float64], seed: int) -> int:
        if self._info.temperature == 0:
            return int(log_probs.argmax())
        chances = np.exp(_log_softmax(log_probs / self._info.temperature)).cumsum()
        draw = random.Random(seed).random() * chances[-1]
        return int(chances.searchsorted(draw, side="right"))

    # What a trainer needs.

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.network.parameters())

    def prepare(self, trajectory: Trajectory) -> Prepared:
        """Compute the features of every turn.

        Raises:
            BadInput: a turn without recorded candidates, or whose action is not among them.
        """
        rows, turn, chosen = [], [], []
        count, memory = 0, Memory(trajectory.instruction)
        for number, one in enumerate(trajectory.turns):
            position = _position(trajectory, one)
            memory.catch_up(trajectory.turns[:number], one.observation)
            rows.append(
                features(
                    trajectory.instruction, memory, one.observation, one.candidates,
                    self.sizes["buckets"],
                )
            )  # fmt: skip
            turn += [number] * len(one.candidates)
            chosen.append(count + position)
            count += len(one.candidates)
        if not rows:
            raise BadInput(f"trajectory of `{trajectory.task_id}` has no turns; leave it out")
        return Prepared(
            torch.from_numpy(np.concatenate(rows)), torch.tensor(turn), torch.tensor(chosen)
        )

    def log_probs(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        """Give log-probabilities (trajectories, turns); zero past a trajectory's end."""
        longest = max(len(one.chosen) for one in prepared)
        scores = self.network(torch.cat([one.indices for one in prepared]))
        group = torch.cat([one.turn + row * longest for row, one in enumerate(prepared)])
        sizes = [len(one.indices) for one in prepared]
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        pick = torch.cat([one.chosen + at for one, at in zip(prepared, starts, strict=True)])
        # Softmax within each turn's candidates, by scatter: turns have unequal numbers of them.
        empty = torch.full((len(prepared) * longest,), -torch.inf)
        top = empty.scatter_reduce(0, group, scores.detach(), "amax")
        total = torch.zeros_like(top).index_add(0, group, torch.exp(scores - top[group]))
        logs = scores[pick] - top[group[pick]] - torch.log(total[group[pick]])
        result = torch.zeros(len(prepared) * longest).index_put((group[pick],), logs)
        return result.view(len(prepared), longest)

    def clone(self) -> "Ranker":
        """Copy the weights: a frozen reference."""
        sizes = self.sizes
        copy = Ranker(buckets=sizes["buckets"], width=sizes["width"], hidden=sizes["hidden"])
        copy.network.load_state_dict(self.network.state_dict())
        for parameter in copy.network.parameters():
            parameter.requires_grad_(False)
        return copy.with_info(self._info)

    def save(self, directory: Path) -> None:
        """Write weights and sizes; the description last, so that a half-written one is none."""
        directory.mkdir(parents=True, exist_ok=True)
        weights = {key: value.contiguous() for key, value in self.network.state_dict().items()}
        save_file(weights, directory / WEIGHTS)
        settings = {"agent": "ranker", "features": VERSION, "sizes": self.sizes}
        (directory / AGENT_FILE).write_text(json.dumps(settings), encoding="utf-8")


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max()
    return np.asarray(shifted - math.log(np.exp(shifted).sum()))


def _position(trajectory: Trajectory, turn: Turn) -> int:
    try:
        return turn.candidates.index(turn.action)
    except ValueError:
        raise BadInput(
            f"action `{turn.action[:80]}` of `{trajectory.task_id}` is not among the turn's "
            f"{len(turn.candidates)} recorded candidates; roll out with candidates kept"
        ) from None


def _read_settings(directory: Path) -> dict[str, int]:
    """Give the sizes of a saved ranker."""
    path = directory / AGENT_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        sizes = {name: int(settings["sizes"][name]) for name in ("buckets", "width", "hidden")}
        version = settings["features"]
    except FileNotFoundError as error:
        raise BadFile(path, "no such file; wanted a directory that `save` wrote") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadFile(path, f"not a saved ranker ({error!r})") from error
    if version != VERSION:
        raise BadFile(
            path,
            f"{version!r}; wanted {VERSION}: its weights are of other features; train it again",
            field="features",
        )
    return sizes
