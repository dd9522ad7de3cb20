"""Rejection-sampling fine-tuning: clone what succeeded of the policy's own tries.

The baseline "RFT" of ETO's table 2 (Song et al. 2024; Yuan et al. 2023, arXiv 2308.01825): explore
as ETO does, keep the successes, and clone them together with the demonstrations. It sees the same
episodes as ETO with pairs among own trajectories, and leaves the failures unused.

Command: `trialgym train rft --policy policy --demonstrations demonstrations.jsonl
--explored explored.jsonl --out better`
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trialgym.errors import NothingToLearn
from trialgym.policy import TrainablePolicy
from trialgym.records import Trajectory

from .bc import BehaviourCloning, clone
from .language_settings import FineTuning
from .training import Experience, Report, Schedule


@dataclass(frozen=True, slots=True)
class RejectionSampling:
    """Clone own successes."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=3, batch=32, learning_rate=1e-3)
    )
    """Of a ranker."""
    language: FineTuning = field(default_factory=FineTuning)
    """Of a language model."""
    demonstrations: bool = True
    """Clone the demonstrations too, so that what they taught is not forgotten."""
    per_task: int = 1
    """Successes kept of a task, the shortest first: many samples would weigh easy tasks up."""

    @property
    def needs_exploration(self) -> bool:
        return True

    @property
    def needs_experts(self) -> bool:
        return False

    def train(self, policy: TrainablePolicy, experience: Experience, directory: Path) -> Report:
        """Train `policy` in place; checkpoints of a language model go to `directory`."""
        rows = successes(experience.explored, self.per_task)
        if self.demonstrations:
            shown = [row for row in experience.demonstrations if row.success]
            if not shown:
                raise NothingToLearn(
                    "rft without demonstrations; give some, or set `demonstrations` to false"
                )
            rows += shown
        settings = BehaviourCloning(self.schedule, self.language)
        report = clone(policy, rows, settings, directory)
        return replace(report, algorithm="rft")


def successes(explored: Sequence[Trajectory], per_task: int) -> list[Trajectory]:
    """Keep the shortest successes of each task, in the order of tasks."""
    kept: dict[str, list[Trajectory]] = {}
    for one in sorted(explored, key=lambda one: (one.task_id, len(one.turns), one.sample)):
        if one.success and len(kept.setdefault(one.task_id, [])) < per_task:
            kept[one.task_id].append(one)
    return [one for rows in kept.values() for one in rows]
