"""PyTorch and Transformers, set up before they are imported: take them from here in this room."""

import os

from trialgym.errors import MissingExtra

# Threads of OpenMP that wait by spinning starve every other process on the machine, the sibling
# rollouts included; the variable is only read while torch is being imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import torch
    import transformers
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "transformers", "train") from error

__all__ = ["torch", "transformers"]
