"""Behaviour cloning: raise the log-probabilities of the expert's actions.

The first stage of ETO (Song et al. 2024, arXiv 2403.02502, section 3.1) and of every method after
it. The loss is the mean negative log-probability of the expert's replies; instruction and
observations carry none. A language model is trained through TRL, a ranker by `training.imitate`.

Command: `trialgym train bc --policy ranker --demonstrations demonstrations.jsonl --out policy`
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trialgym.policy import LanguagePolicy, TrainablePolicy
from trialgym.records import Trajectory

from .language_settings import FineTuning
from .training import Experience, Report, Schedule, imitate


@dataclass(frozen=True, slots=True)
class BehaviourCloning:
    """Clone the demonstrations."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=20, batch=4, learning_rate=3e-3)
    )
    """Of a ranker."""
    language: FineTuning = field(default_factory=FineTuning)
    """Of a language model."""
    with_experts: bool = False
    """Clone the expert on the explored tasks too: the control that sees what strict ETO sees."""

    @property
    def needs_exploration(self) -> bool:
        return False

    @property
    def needs_experts(self) -> bool:
        return self.with_experts

    def train(self, policy: TrainablePolicy, experience: Experience, directory: Path) -> Report:
        """Train `policy` in place; checkpoints of a language model go to `directory`."""
        rows = [*experience.demonstrations, *(experience.experts if self.with_experts else ())]
        return clone(policy, [row for row in rows if row.success], self, directory)


def clone(
    policy: TrainablePolicy,
    trajectories: Sequence[Trajectory],
    settings: BehaviourCloning,
    directory: Path,
) -> Report:
    """Imitate trajectories by the trainer that the policy needs."""
    if isinstance(policy, LanguagePolicy):
        from .language import clone_behaviour

        return clone_behaviour(policy, trajectories, settings.language, directory)
    return imitate(policy, trajectories, settings.schedule, "bc")
