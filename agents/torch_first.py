"""PyTorch and what builds on it, set up before the import: take them from here in this room."""

import os

from trialgym.errors import MissingExtra

# Threads of OpenMP that wait by spinning starve every other process on the machine, the sibling
# rollouts included; the variable is only read while torch is being imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import jinja2
    import tokenizers
    import torch
    import transformers
    import transformers.cache_utils
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "transformers", "train") from error

# Its bars for loading and saving would break through the one of the run; trainers keep theirs.
transformers.utils.logging.disable_progress_bar()

__all__ = ["jinja2", "tokenizers", "torch", "transformers"]
