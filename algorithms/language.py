"""Training a language model on trajectories: behaviour cloning and preference learning through TRL.

Both train reply tokens only, the end-of-turn token included; what the policy was given is masked on
both sides of a pair. Both resume from `directory` after a kill and end with the same weights, leave
the policy's model the same object on the same device, and report what was dropped and why.

The reference of preference learning is the policy as it explored, in every round: its log-
probabilities are taken from the very weights that training starts from, with or without an adapter.
"""

import hashlib
import json
import logging
import math
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from trialgym.errors import BadInput, MissingExtra, NothingToLearn
from trialgym.policy import Encoding, LanguagePolicy
from trialgym.records import Trajectory

from .language_checkpoints import newest_whole
from .language_settings import FineTuning, Preference, Training
from .pairs import Pair

try:
    import torch
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from transformers import PrinterCallback, TrainerCallback
    from transformers.utils import logging as transformers_logging
    from trl import DPOConfig, SFTConfig
except ImportError as error:
    raise MissingExtra("trl", "train") from error

from .language_trainers import (
    CloningCollator,
    CloningTrainer,
    PairCollator,
    PreferenceTrainer,
    Row,
)
from .training import Report

logger = logging.getLogger(__name__)
CHECKPOINTING = next(
    field.name
    for field in fields(SFTConfig)
    if field.name in ("activation_checkpointing", "gradient_checkpointing")
)
"""The argument's name: transformers 5 renamed it, and warns of the old one."""
Progress = Callable[[int, int], None]
"""Told the step done and the number of all steps."""


def clone_behaviour(
    policy: LanguagePolicy,
    trajectories: Iterable[Trajectory],
    config: FineTuning,
    directory: Path,
    progress: Progress | None = None,
) -> Report:
    """Train a policy to reply as the trajectories do; its model is changed in place.

    Args:
        policy: the model with its tokenizer and format.
        trajectories: what to imitate; turns without `loss` are read and not learnt.
        config: the settings.
        directory: where checkpoints go; holds nothing else.
        progress: told after every step.

    Raises:
        BadInput: no row is left to train on, or training diverged.
        RunConflict: `directory` holds checkpoints of other training.
        StorageFull: a checkpoint did not fit; the one before it is whole.
    """
    count: Counter[str] = Counter()
    rows = []
    for trajectory in trajectories:
        encoding = policy.encode(trajectory)
        row = _row(encoding, 0, config.max_length)
        if isinstance(row, str):
            count[row] += 1
            continue
        length = len(row["ids"])
        labels = [
            token if kept else -100 for token, kept in zip(row["ids"], row["mask"], strict=True)
        ]
        observed = [int(turn < 0) for turn in encoding.turn[:length]]
        rows.append(
            {"input_ids": row["ids"], "labels": labels, "observed": observed, "length": length}
        )
    _tell(count, len(rows), "trajectories", config)
    arguments = SFTConfig(
        **_arguments(config, len(rows), directory, policy.model),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    options = {
        "args": arguments,
        "data_collator": CloningCollator(_pad(policy)),
        "observation_weight": config.observation_weight,
    }
    tokens = sum(label >= 0 for row in rows for label in row["labels"])
    return _fit("bc", options, _Data(rows, tokens, count), policy, config, progress)


def prefer(
    policy: LanguagePolicy,
    pairs: Iterable[Pair],
    config: Preference,
    directory: Path,
    progress: Progress | None = None,
) -> Report:
    """Train a policy to prefer each pair's chosen side by DPO; its model is changed in place.

    Args:
        policy: the model that explored; it is its own reference.
        pairs: what to prefer to what, and from which turn on.
        config: the settings.
        directory: where checkpoints go; holds nothing else.
        progress: told after every step.

    Raises:
        BadInput: no pair is left to train on, or training diverged.
        RunConflict: `directory` holds checkpoints of other training.
        StorageFull: a checkpoint did not fit; the one before it is whole.
    """
    count: Counter[str] = Counter()
    rows = []
    for pair in pairs:
        sides: Row = {"length": 0}
        for name, trajectory in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            row = _row(policy.encode(trajectory), pair.start, config.max_length)
            if isinstance(row, str):
                count[row] += 1
                break
            sides[name] = row
            sides["length"] = max(sides["length"], len(row["ids"]))
        else:
            rows.append(sides)
    _tell(count, len(rows), "pairs", config)
    arguments = DPOConfig(
        **_arguments(config, len(rows), directory, policy.model),
        beta=config.beta,
        max_length=None,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=config.batch,
    )
    options = {
        "args": arguments,
        "data_collator": PairCollator(_pad(policy)),
        "nll": config.nll,
        "nll_form": config.nll_form,
    }
    tokens = sum(sum(row[side]["mask"]) for row in rows for side in ("chosen", "rejected"))
    return _fit("eto", options, _Data(rows, tokens, count), policy, config, progress)


def _row(encoding: Encoding, start: int, max_length: int) -> Row | str:
    """Give a trajectory's tokens up to the last one trained, or the reason to drop it."""
    mask = [
        int(trained and turn >= start)
        for trained, turn in zip(encoding.loss, encoding.turn, strict=True)
    ]
    # Nothing comes before the first token that could predict it.
    mask[:1] = [0]
    if not any(mask):
        return "masked"
    length = len(mask) - mask[::-1].index(1)
    if length > max_length:
        return "too_long"
    places = [place for place in sorted(encoding.allowed) if place < length and mask[place]]
    choices = [list(encoding.allowed[place]) for place in places]
    ids = list(encoding.ids[:length])
    if any(ids[place] not in choice for place, choice in zip(places, choices, strict=True)):
        return "outside"
    return {"ids": ids, "mask": mask[:length], "places": places, "choices": choices}


def _tell(count: Counter[str], kept: int, what: str, config: Training) -> None:
    reasons = (
        f"{count['too_long']} longer than max_length {config.max_length}, {count['masked']} with "
        f"nothing to train, {count['outside']} with tokens that restricted decoding forbids"
    )
    if not kept:
        raise NothingToLearn(f"no {what} to train on: {reasons}; wanted one at least")
    if count.total():
        logger.warning("%d %s kept, %d dropped: %s", kept, what, count.total(), reasons)


def _pad(policy: LanguagePolicy) -> int:
    """Give any token to pad with: what is padded is neither attended to nor trained."""
    pad = policy.tokenizer.pad_token_id
    return int(pad if pad is not None else policy.tokenizer.eos_token_id or 0)


def _steps(config: Training, rows: int) -> int:
    """Count optimiser updates; the last one of an epoch may have fewer batches than the others."""
    per_epoch = math.ceil(math.ceil(rows / config.batch) / config.accumulate)
    return config.epochs * per_epoch if config.updates is None else config.updates


def _arguments(config: Training, rows: int, directory: Path, model: Any) -> dict[str, Any]:
    """Give the trainer arguments that both methods share; nothing in them reaches the network."""
    on_cpu = not torch.cuda.is_available()
    return {
        "output_dir": str(directory),
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "max_steps": -1 if config.updates is None else config.updates,
        "per_device_train_batch_size": config.batch,
        "gradient_accumulation_steps": config.accumulate,
        "lr_scheduler_type": config.schedule,
        # Rounded down: the first step of a warm-up moves nothing, which a short run cannot spare.
        "warmup_steps": int(config.warmup * _steps(config, rows)),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.gradient_norm,
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": on_cpu,
        "bf16": config.bf16 and not on_cpu,
        CHECKPOINTING: config.gradient_checkpointing,
        "save_strategy": "steps" if config.save_steps else "no",
        "save_steps": max(config.save_steps, 1),
        # Every step: a mean over an epoch would forget what came before a kill.
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_pin_memory": not on_cpu,
    }


@dataclass(frozen=True, slots=True)
class _Data:
    rows: Sequence[Any]
    tokens: int
    """Trained tokens of all rows."""
    dropped: Counter[str]

    def fingerprint(self, model: Any, config: Training) -> str:
        """Hash what decides the outcome, so that no other training's checkpoint is taken up."""
        # How often checkpoints are written decides nothing.
        settings = asdict(replace(config, save_steps=0))
        digest = hashlib.blake2b(json.dumps([settings, list(self.rows)]).encode(), digest_size=16)
        for name, weight in sorted(model.state_dict().items()):
            digest.update(name.encode())
            flat = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(flat.numpy().tobytes())
        return digest.hexdigest()


def _fit(
    algorithm: str,
    options: dict[str, Any],
    data: _Data,
    policy: LanguagePolicy,
    config: Training,
    progress: Progress | None,
) -> Report:
    began = time.process_time()
    directory = Path(options["args"].output_dir)
    run = data.fingerprint(policy.model, config) if config.save_steps else ""
    checkpoint = newest_whole(directory, run) if config.save_steps else None
    kind = CloningTrainer if algorithm == "bc" else PreferenceTrainer
    with _quiet(), _global_chance_kept(), _model_kept(policy.model):
        trainer = kind(
            model=policy.model,
            train_dataset=Dataset.from_list(list(data.rows)),
            processing_class=policy.tokenizer,
            peft_config=_adapter(policy.model, config),
            callbacks=[_Steps(progress)] if progress else [],
            run_key=run,
            **options,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.model is not policy.model:
            trainer.model.merge_and_unload()
    steps = int(trainer.state.global_step)
    return Report(
        algorithm=algorithm,
        rows=len(data.rows),
        steps=steps,
        tokens=round(data.tokens * _epochs(config, steps, len(data.rows))),
        cpu_seconds=time.process_time() - began,
        metrics=_per_epoch(trainer.state.log_history),
        details={name: data.dropped[name] for name in ("too_long", "masked", "outside")},
    )


def _epochs(config: Training, steps: int, rows: int) -> float:
    """Tell how often the data were gone through."""
    per_epoch = math.ceil(math.ceil(rows / config.batch) / config.accumulate)
    whole, rest = divmod(steps, per_epoch)
    return whole + min(rest * config.batch * config.accumulate / rows, 1.0)


def _adapter(model: Any, config: Training) -> Any:
    if not config.lora_rank or isinstance(model, PeftModel):
        return None
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


class _Steps(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps)


@contextmanager
def _model_kept(model: Any) -> Iterator[None]:
    """Undo what training does to a model beside its weights.

    Above all the replaced `forward`: a copy of the model would still call the original through it,
    and a frozen copy would then move with what it was copied from.
    """
    wrapped = [model, *([model.get_base_model()] if isinstance(model, PeftModel) else [])]
    names = ("forward", "_original_forward")
    before = [
        {name: one.__dict__[name] for name in names if name in one.__dict__} for one in wrapped
    ]
    device, training = model.device, model.training
    trainable = {name: weight.requires_grad for name, weight in model.named_parameters()}
    dropouts = _dropouts(model)
    for module, name, _ in dropouts:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, rate in dropouts:
            setattr(module, name, rate)
        for one, kept in zip(wrapped, before, strict=True):
            for name in names:
                one.__dict__.pop(name, None)
            one.__dict__.update(kept)
        for name, weight in model.named_parameters():
            weight.requires_grad_(trainable.get(name, weight.requires_grad))
            weight.grad = None
        model.train(training).to(device)


def _dropouts(model: Any) -> list[tuple[Any, str, float]]:
    """Find dropout rates, those of attention included, which are bare numbers and no modules.

    With any of them at work no step could begin at the reference.
    """
    return [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float)
        and (name.endswith("dropout") or (name == "p" and isinstance(module, torch.nn.Dropout)))
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' bars off the terminal, which belongs to the caller's progress."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT still asks transformers by the old name; that is theirs to mend.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _global_chance_kept() -> Iterator[None]:
    """Let the trainers seed the global generators, and give these back as they were."""
    python, numbers = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


NAMES = {
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",
    "dpo_loss": "dpo_loss",
    "margin": "margin",
    "accuracy": "accuracy",
    "chosen_log_prob": "chosen_log_prob",
    "rejected_log_prob": "rejected_log_prob",
    "chosen_nll": "chosen_nll",
}
"""What is kept of the trainers' log, and under which name."""


def _per_epoch(history: Sequence[dict[str, float]]) -> tuple[dict[str, float], ...]:
    epochs: dict[int, list[dict[str, float]]] = {}
    for entry in history:
        if "loss" in entry:
            epochs.setdefault(math.ceil(entry["epoch"] - 1e-6), []).append(entry)
    rows = []
    for number, entries in sorted(epochs.items()):
        row = {"epoch": float(number)}
        for name, ours in NAMES.items():
            if name in entries[0]:
                row[ours] = sum(entry[name] for entry in entries) / len(entries)
        if not math.isfinite(row["loss"]):
            raise BadInput(f"the loss of epoch {number} is {row['loss']}; lower the learning rate")
        rows.append(row)
    return tuple(rows)
