"""PyTorch and Transformers, or the name of the extra that brings them."""

from trialgym.errors import MissingExtra

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
