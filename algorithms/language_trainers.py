"""The two trainers that cloning and preference learning need, each the least subclass of TRL's.

TRL's SFT trainer takes our labels as they are. Its DPO trainer would train every token after the
prompt, the observations of a multi-turn episode included, and would take its reference from a file
or from a disabled adapter; so the collator, the reference and the loss are ours, and the rest
(batches, optimizer, schedule, accumulation, mixed precision, checkpoints) stays TRL's.
"""

import errno
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from trl import DPOTrainer, SFTTrainer

from trialgym.core import seed_of
from trialgym.errors import StorageFull

from .language_checkpoints import prune, seal
from .losses import dpo

STRETCH = 16
"""Batches' worth of rows that are sorted by length together."""
Row = dict[str, Any]
"""`ids`, `mask` (1 where a token is trained), `places` and `choices` (restricted positions and the
token ids allowed there)."""


def token_log_probs(
    logits: Tensor,
    ids: Tensor,
    mask: Tensor,
    places: tuple[Tensor, Tensor] | None = None,
    choices: Tensor | None = None,
) -> Tensor:
    """Score each token of a batch.

    Args:
        logits: (batch, length, vocabulary), each position's scores for the token at that position.
        ids: (batch, length) tokens.
        mask: (batch, length); where it is zero the result is zero, and so is its gradient.
        places: rows and positions (count) where decoding was restricted.
        choices: (count, most) token ids allowed there, padded with -1.

    Returns:
        (batch, length) log-probabilities in nats: over the vocabulary, or over the allowed tokens.
    """
    scores = logits.float()
    scored = scores.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    total = scores.logsumexp(-1)
    if places is not None and choices is not None:
        options = scores[places].gather(-1, choices.clamp(min=0))
        options = options.masked_fill(choices < 0, -torch.inf)
        total = total.index_put(places, options.logsumexp(-1))
    return torch.where(mask.bool(), scored - total, 0.0)


def score(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Give (rows, length - 1) log-probabilities of a batch's trained tokens, zero elsewhere.

    Args:
        model: a causal model that carries TRL's fused head.
        batch: what `PairCollator` makes.
    """
    ids, mask = batch["input_ids"], batch["completion_mask"]
    given = {"input_ids": ids, "attention_mask": batch["attention_mask"], "use_cache": False}
    if "choices" not in batch:
        # Never holds the scores of a whole vocabulary for a whole episode.
        labels = ids.masked_fill(mask == 0, -100)
        scored: Tensor = model(**given, labels=labels, fused_lm_head=True).log_probs
        return scored
    places = batch["restricted_rows"], batch["restricted_places"] - 1
    logits = model(**given).logits[:, :-1]
    return token_log_probs(logits, ids[:, 1:], mask[:, 1:], places, batch["choices"])


class PairCollator:
    """Pads pairs to one batch: the chosen rows first, then the rejected ones in the same order."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        rows: list[Row] = [example[side] for side in ("chosen", "rejected") for example in examples]
        batch = {
            "input_ids": padded([row["ids"] for row in rows], self.pad),
            "attention_mask": padded([[1] * len(row["ids"]) for row in rows], 0),
            "completion_mask": padded([row["mask"] for row in rows], 0),
        }
        restricted = [
            (index, place, choice)
            for index, row in enumerate(rows)
            for place, choice in zip(row["places"], row["choices"], strict=True)
        ]
        if restricted:
            indices, places, choices = zip(*restricted, strict=True)
            batch["restricted_rows"] = torch.tensor(indices)
            batch["restricted_places"] = torch.tensor(places)
            batch["choices"] = padded(choices, -1)
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples])
        return batch


class CloningCollator:
    """Pads cloned episodes; `observed` marks what the policy was given, not its own replies."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        ids = padded([example["input_ids"] for example in examples], self.pad)
        return {
            "input_ids": ids,
            "attention_mask": padded([[1] * len(one["input_ids"]) for one in examples], 0),
            "labels": padded([example["labels"] for example in examples], -100),
            "observed": padded([example["observed"] for example in examples], 0),
        }


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([list(row) + [value] * (length - len(row)) for row in rows])


class SimilarLengths(Sampler[int]):
    """Draws batches whose rows are of similar length, so that little of a batch is padding.

    The order is a function of the seed and the epoch alone, so that a resumed run finds its place.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed = list(lengths), batch, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Shuffle, sort by length within long stretches, cut into batches, shuffle these."""
        chance = random.Random(seed_of("order", self.seed, self.epoch))
        order = list(range(len(self.lengths)))
        chance.shuffle(order)
        stretch = self.batch * STRETCH
        batches = []
        for begin in range(0, len(order), stretch):
            rows = sorted(order[begin : begin + stretch], key=self.lengths.__getitem__)
            batches += [rows[at : at + self.batch] for at in range(0, len(rows), self.batch)]
        # A short batch ends the epoch: elsewhere it would shift the borders of all after it.
        last = [batches.pop()] if len(batches[-1]) < self.batch else []
        chance.shuffle(batches)
        return iter([row for rows in [*batches, *last] for row in rows])


class OwnHouse:
    """What both trainers do differently from TRL's: nothing leaves, checkpoints are sealed."""

    run_key = ""
    """What the checkpoints belong to; a checkpoint of another key is never resumed from."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SimilarLengths:
        args: Any = self.args  # type: ignore[attr-defined]
        rows: Any = self.train_dataset  # type: ignore[attr-defined]
        return SimilarLengths(rows["length"], args.train_batch_size, args.seed)

    def _send_telemetry(self) -> None:
        """Send nothing: training works offline and tells nobody."""

    def create_model_card(self, *args: Any, **options: Any) -> None:
        """Write none: a checkpoint is no publication."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
            seal(checkpoint, self.run_key)
            prune(checkpoint.parent)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise StorageFull(
                "the disk is full while a checkpoint is written; the one before it is whole; "
                "free some space and run the same again"
            ) from error


class CloningTrainer(OwnHouse, SFTTrainer):  # type: ignore[misc]
    """TRL's SFT on our labels, with a loss on observations beside it where that is asked for."""

    def __init__(self, *, observation_weight: float, run_key: str, **options: Any) -> None:
        self.observation_weight = observation_weight
        self.run_key = run_key
        super().__init__(**options)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        observed = inputs.pop("observed")[:, 1:]
        if not self.observation_weight:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        trained = inputs["labels"][:, 1:] != -100
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        outputs = model(**given, labels=labels, fused_lm_head=True, use_cache=False)
        weights = trained + self.observation_weight * observed
        # Per reply token, as without observations, so that the same learning rate fits both.
        replies = trained.sum() if num_items_in_batch is None else num_items_in_batch
        right = (outputs.is_top1.bool() & trained).sum() / trained.sum()
        self._metrics["train"]["mean_token_accuracy"].append(right.item())
        return -(outputs.log_probs * weights).sum() / replies


class PreferenceTrainer(OwnHouse, DPOTrainer):  # type: ignore[misc]
    """TRL's DPO with observations masked, restricted decoding, and the explorer as reference."""

    def __init__(self, *, nll: float, nll_form: str, run_key: str, **options: Any) -> None:
        self.nll, self.nll_form = nll, nll_form
        self.run_key = run_key
        super().__init__(**options)
        # TRL keeps a copy of a given adapter as reference; ours is in the data set already.
        if "ref" in getattr(self.model, "peft_config", {}):
            self.model.delete_adapter("ref")

    def _prepare_dataset(self, dataset: Any, *args: Any, **options: Any) -> Any:
        """Leave the rows alone: they are tokens with masks already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Score both sides by the policy as it explored: its weights before the first step.

        TRL would score by the disabled adapter where there is one, which is not the explorer when
        the adapter was trained before.
        """
        lengths = dataset["length"]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        sums = []
        self.model.eval()
        rows = dataset.select(order)
        for batch in DataLoader(rows, batch_size=batch_size, collate_fn=self.data_collator):
            with torch.no_grad(), self.accelerator.autocast():
                scored = score(self.model, self._prepare_inputs(batch))
            sums.append(torch.stack(scored.sum(1).chunk(2)).cpu())
        back = torch.tensor(order).argsort()
        chosen, rejected = torch.cat(sums, dim=1)[:, back].tolist()
        return dataset.add_column("ref_chosen_logps", chosen).add_column(
            "ref_rejected_logps", rejected
        )

    def _compute_loss(self, model: Any, inputs: Mapping[str, Tensor], return_outputs: bool) -> Any:
        scored = score(model, inputs)
        chosen, rejected = scored.sum(1).chunk(2)
        was_chosen, was_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        per_pair = dpo(chosen, rejected, was_chosen, was_rejected, self.beta)
        margin = self.beta * ((chosen - was_chosen) - (rejected - was_rejected))
        tokens = inputs["completion_mask"][: len(chosen), 1:].sum(1)
        per_token = -chosen / tokens
        loss = per_pair.mean()
        if self.nll:
            loss = loss + self.nll * (-chosen if self.nll_form == "sum" else per_token).mean()
        self._note(
            dpo_loss=per_pair,
            margin=margin,
            accuracy=(margin > 0).float(),
            chosen_log_prob=chosen,
            rejected_log_prob=rejected,
            chosen_nll=per_token,
        )
        return (loss, None) if return_outputs else loss

    def _note(self, **values: Tensor) -> None:
        for name, value in values.items():
            everywhere = self.accelerator.gather(value.detach())
            self._metrics["train"][name].append(everywhere.mean().item())
