"""Reward-weighted regression (Peters and Schaal 2007): clone each action by what it led to.

The loss is the mean of -w log pi(action), where w is the sum of the rewards from that turn on. It
learns from the policy's own trials alone: no expert is asked and no demonstration is read.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from trialgym.algorithms.training import Experience, Report
from trialgym.errors import BadInput
from trialgym.policy import TrainablePolicy
from trialgym.records import Trajectory


@dataclass(frozen=True, slots=True)
class RewardWeighted:
    """Clone each action by the reward that followed it."""

    steps: int = 50
    """Optimiser updates, each on every episode."""
    learning_rate: float = 0.3

    @property
    def needs_exploration(self) -> bool:
        return True

    @property
    def needs_experts(self) -> bool:
        return False

    def train(self, policy: TrainablePolicy, experience: Experience, directory: Path) -> Report:
        """Train `policy` in place."""
        rows = [row for row in experience.explored if row.turns]
        if not rows:
            raise BadInput("weighted: no explored trajectories; collect some with `--explored`")
        prepared = [policy.prepare(row) for row in rows]
        weights = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(rewards_to_go(row)) for row in rows], batch_first=True
        )
        optimizer = torch.optim.Adam(policy.parameters(), lr=self.learning_rate)
        began, metrics = time.process_time(), []
        for _ in range(self.steps):
            loss = -(weights * policy.log_probs(prepared)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            metrics.append({"loss": loss.item()})
        turns = sum(len(row.turns) for row in rows)
        spent = time.process_time() - began
        return Report("weighted", len(rows), self.steps, turns * self.steps, spent, metrics)


def rewards_to_go(trajectory: Trajectory) -> list[float]:
    """Sum, for each turn, the rewards from it on."""
    rewards = [turn.reward for turn in trajectory.turns]
    return [sum(rewards[at:]) for at in range(len(rewards))]
