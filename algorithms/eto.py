"""ETO: explore, pair failures with successes, prefer by DPO, and again.

Song et al. 2024, "Trial and Error: Exploration-Based Trajectory Optimization for LLM Agents",
arXiv 2403.02502, section 3.2. One round: the policy of the round before explores; each task's
trajectories become pairs (`pairs.py`); DPO on whole trajectories raises the preferred side,
observation tokens masked out, against the policy that explored as the frozen reference::

    L = -log sigmoid(beta * [(log pi(chosen) - log pi(rejected))
                             - (log pi_ref(chosen) - log pi_ref(rejected))])
        - nll * mean log pi(chosen)

Departures: the last term (the paper has none; without it both sides may fall), and pairs among the
policy's own trajectories when `pairs.source` says `self`: then no expert is asked.

Command: `trialgym loop --preset laptop --out runs/demo`; expected numbers: docs/results.md.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from trialgym.policy import LanguagePolicy, TrainablePolicy

from .language_settings import Preference
from .pairs import PairRules, build_pairs
from .training import Experience, Report, Schedule, prefer


@dataclass(frozen=True, slots=True)
class Eto:
    """Prefer what succeeded to what failed."""

    pairs: PairRules = field(default_factory=PairRules)
    beta: float = 0.1
    """Weight of the divergence from the reference. The paper: 0.1, from the second round on 0.5."""
    nll: float = 1.0
    """Weight of the mean negative log-probability of the chosen actions."""
    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=3, batch=32, learning_rate=1e-3)
    )
    """Of a ranker; batches count pairs."""
    language: Preference = field(default_factory=Preference)
    """Of a language model; `beta` and `nll` above stand for its own."""

    @property
    def needs_exploration(self) -> bool:
        return True

    @property
    def needs_experts(self) -> bool:
        return self.pairs.source != "self"

    def train(self, policy: TrainablePolicy, experience: Experience, directory: Path) -> Report:
        """Train `policy` in place; checkpoints of a language model go to `directory`."""
        experts = {one.task_id: one for one in experience.experts if one.success}
        pairs, account = build_pairs(experience.explored, experts, self.pairs)
        if isinstance(policy, LanguagePolicy):
            from .language import prefer as prefer_language

            settings = replace(self.language, beta=self.beta, nll=self.nll)
            report = prefer_language(policy, pairs, settings, directory)
        else:
            report = prefer(policy, pairs, self.schedule, beta=self.beta, nll=self.nll, name="eto")
        return replace(report, algorithm="eto", details={**report.details, **account.to_json()})
