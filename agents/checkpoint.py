"""Models on disk: weights, tokenizer, adapter, and how the model is spoken to."""

import json
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trialgym.errors import BadFile, BadInput
from trialgym.registry import AGENT_FILE

from .torch_first import torch, transformers


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is spoken to; saved with it."""

    format: str = "react"
    restricted: bool = False
    """Whether replies are one of the admissible actions, where the environment lists them."""
    system: bool = True
    """Whether a system prompt tells the environment's grammar and the format."""
    remind: bool = False
    """Whether every observation after the first ends with the instruction: a small model that must
    copy a name out of it need not look back over the whole episode."""
    chat_template: str | None = None
    """`plain`, `chatml` or a template's text, in place of the tokenizer's own."""
    max_new_tokens: int = 128
    max_context: int | None = None
    """Longest row in tokens; None for what the model was built for."""


def write_settings(settings: Settings, directory: Path) -> None:
    """Keep the settings beside the model."""
    # The registry id of what loads it comes first.
    text = json.dumps({"agent": "transformers"} | asdict(settings), indent=2)
    (directory / AGENT_FILE).write_text(text + "\n")


def read_settings(directory: Path) -> Settings:
    """Give the settings that were saved with a model, or the defaults.

    Raises:
        BadFile: the file is not what `write_settings` writes.
    """
    path = directory / AGENT_FILE
    if not path.is_file():
        return Settings()
    try:
        row = json.loads(path.read_text())
    except ValueError as error:
        raise BadFile(path, f"no valid JSON ({error}); wanted what `save` writes") from error
    names = {field.name for field in fields(Settings)}
    if not isinstance(row, dict) or not set(row) - {"agent"} <= names:
        raise BadFile(path, f"wanted an object with some of {', '.join(sorted(names))}")
    return Settings(**{name: value for name, value in row.items() if name != "agent"})


def load(
    model: str, adapter: str | Path | None, lora: int | None, device: str | None, dtype: str
) -> tuple[Any, Any]:
    """Load a model, with its adapter where it has one, and its tokenizer."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto" and not place.startswith("cuda"):
        dtype = "float32"
    base = model
    if (Path(model) / "adapter_config.json").is_file():
        if adapter is not None:
            raise BadInput(f"model `{model}`, itself an adapter; wanted one; leave `adapter` out")
        adapter, base = model, _base_of(Path(model))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        network = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"model `{model}`; wanted a directory or hub id that transformers can load as a causal "
            f"language model with its tokenizer; {error}"
        ) from error
    if adapter is not None or lora is not None:
        network = _with_adapter(network, adapter, lora)
    return network.to(place).eval(), tokenizer


def _base_of(adapter: Path) -> str:
    row = json.loads((adapter / "adapter_config.json").read_text())
    return str(row["base_model_name_or_path"])


def _with_adapter(network: Any, adapter: str | Path | None, lora: int | None) -> Any:
    import peft

    with warnings.catch_warnings():
        # peft asks for a property that transformers has renamed; nothing a user could mend.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        if adapter is not None:
            return peft.PeftModel.from_pretrained(network, str(adapter), is_trainable=True)
        config = peft.LoraConfig(
            r=lora, lora_alpha=2 * (lora or 0), target_modules="all-linear", task_type="CAUSAL_LM"
        )
        return peft.get_peft_model(network, config)


def configured(model: Any, name: str) -> Any:
    """Give a value of the text model's configuration, by whatever name its family has for it."""
    config = model.config.get_text_config()
    return config.to_dict().get(config.attribute_map.get(name, name))
