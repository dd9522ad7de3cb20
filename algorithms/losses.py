"""The losses that several methods share, over trajectory log-probabilities in nats."""

import torch
from torch import Tensor


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7), one value a pair.

    Args:
        chosen: (pairs,) summed log-probabilities of the preferred side under the policy.
        rejected: the same of the other side.
        reference_chosen: the same under the frozen reference.
        reference_rejected: the same under the frozen reference.
        beta: weight of the divergence from the reference; larger keeps the policy nearer.
    """
    margin = (chosen - rejected) - (reference_chosen - reference_rejected)
    return torch.nn.functional.softplus(-beta * margin)
