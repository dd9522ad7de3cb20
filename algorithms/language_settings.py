"""How a language model is trained: settings alone, so that naming them imports no torch."""

from dataclasses import asdict, dataclass
from typing import Literal

from trialgym.errors import BadInput


@dataclass(frozen=True, slots=True)
class Training:
    """What cloning and preference learning have in common."""

    learning_rate: float = 2e-5
    epochs: int = 3
    updates: int | None = None
    """Optimiser updates, whatever the epochs: what equal compute among methods is set by."""
    batch: int = 16
    """Rows, or pairs, that go through the model at once."""
    accumulate: int = 1
    """Batches whose gradients make one step."""
    schedule: str = "cosine"
    """Learning-rate schedule, by its name in transformers."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises to its full height."""
    weight_decay: float = 0.0
    gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    max_length: int = 4096
    """Longest row in tokens. A longer one is dropped and counted, never cut."""
    lora_rank: int = 0
    """Rank of the adapter that is trained, then merged into the weights; 0 trains every weight. A
    policy that comes with an adapter has that one trained and kept, whatever this says."""
    bf16: bool = True
    """Mixed precision where CUDA has it; a CPU always computes in the weights' own precision."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    save_steps: int = 0
    """Steps between two checkpoints; 0 writes none, and a kill then begins anew."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        given = asdict(self)
        for name in ("learning_rate", "epochs", "batch", "accumulate", "max_length"):
            if not given[name] > 0:
                raise BadInput(f"{name} {given[name]}; wanted more than 0")
        if self.updates is not None and self.updates < 1:
            raise BadInput(f"updates {self.updates}; wanted at least 1, or None for whole epochs")
        for name in ("lora_rank", "save_steps", "weight_decay"):
            if not given[name] >= 0:
                raise BadInput(f"{name} {given[name]}; wanted 0 or more")
        if not 0 <= self.warmup <= 1:
            raise BadInput(f"warmup {self.warmup}; wanted a share between 0 and 1")


@dataclass(frozen=True, slots=True)
class FineTuning(Training):
    """Behaviour cloning; the defaults are those of ETO's base policy."""

    observation_weight: float = 0.0
    """Weight of a token that the policy was given, a reply token having 1. A model trained from
    nothing learns faster with 0.5; a pretrained one needs none."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        Training.__post_init__(self)
        if not self.observation_weight >= 0:
            raise BadInput(f"observation_weight {self.observation_weight}; wanted 0 or more")


@dataclass(frozen=True, slots=True)
class Preference(Training):
    """Preference learning; the defaults are those of ETO's first round."""

    learning_rate: float = 1e-6
    batch: int = 32
    schedule: str = "constant_with_warmup"
    warmup: float = 0.1
    beta: float = 0.1
    """How dearly the policy pays for leaving the reference."""
    nll: float = 0.0
    """Weight of the chosen side's negative log-likelihood beside the preference loss."""
    nll_form: Literal["mean", "sum"] = "mean"
    """`mean`: per token of each chosen side; `sum`: of all its tokens together, as in IPR."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        Training.__post_init__(self)
        if not self.beta > 0 or not self.nll >= 0:
            raise BadInput(f"beta {self.beta}, nll {self.nll}; wanted beta above 0, nll from 0 up")
        if self.nll_form not in ("mean", "sum"):
            raise BadInput(f"nll_form `{self.nll_form}`; wanted `mean` or `sum`")
