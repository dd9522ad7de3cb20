"""Log-probabilities of recorded replies under a language model, with gradients."""

import inspect
from collections.abc import Sequence
from typing import Any

from trialgym.policy import Encoding

from .torch_first import torch, transformers


def turn_log_probs(model: Any, rows: Sequence[Encoding], pad: int) -> torch.Tensor:
    """Sum the log-probabilities of each turn's reply tokens.

    Where decoding was restricted, a token's probability is renormalised over the tokens that were
    allowed at its position.

    Returns:
        Differentiable tensor (rows, turns); zero past a row's last turn.
    """
    training = model.training
    model.eval()
    try:
        return _sums(model, rows, pad)
    finally:
        model.train(training)


def _sums(model: Any, rows: Sequence[Encoding], pad: int) -> torch.Tensor:
    spots = [
        (line, place, turn)
        for line, row in enumerate(rows)
        for place, turn in enumerate(row.turn)
        if turn >= 0
    ]
    turns = max((turn for _, _, turn in spots), default=-1) + 1
    if not spots:
        return torch.zeros(len(rows), turns, device=model.device)
    logits = _logits_before(model, rows, spots, pad)
    lines = torch.tensor([line for line, _, _ in spots], device=model.device)
    owners = torch.tensor([turn for _, _, turn in spots], device=model.device)
    tokens = torch.tensor([rows[line].ids[place] for line, place, _ in spots], device=model.device)
    scores = logits.gather(-1, tokens[:, None])[:, 0] - _normaliser(logits, rows, spots)
    sums = torch.zeros(len(rows), turns, dtype=scores.dtype, device=model.device)
    return sums.index_put((lines, owners), scores, accumulate=True)


_Spots = Sequence[tuple[int, int, int]]


def _logits_before(model: Any, rows: Sequence[Encoding], spots: _Spots, pad: int) -> torch.Tensor:
    """Give the logits that each reply token was drawn from, in float32."""
    width = max(len(row.ids) for row in rows)
    ids = [[*row.ids, *[pad] * (width - len(row.ids))] for row in rows]
    seen = [[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(seen, device=model.device),
        "use_cache": False,
    }
    columns = sorted({place - 1 for _, place, _ in spots})
    base = model if isinstance(model, transformers.PreTrainedModel) else model.get_base_model()
    if "logits_to_keep" in inspect.signature(base.forward).parameters:
        inputs["logits_to_keep"] = torch.tensor(columns, device=model.device)
    else:
        columns = list(range(width))
    at = {column: index for index, column in enumerate(columns)}
    logits = model(**inputs).logits
    picked: torch.Tensor = logits[
        [line for line, _, _ in spots], [at[place - 1] for _, place, _ in spots]
    ]
    return picked.float()


def _normaliser(logits: torch.Tensor, rows: Sequence[Encoding], spots: _Spots) -> torch.Tensor:
    free = logits.logsumexp(-1)
    allowed = [rows[line].allowed.get(place, ()) for line, place, _ in spots]
    bound = [index for index, tokens in enumerate(allowed) if tokens]
    if not bound:
        return free
    width = max(len(allowed[index]) for index in bound)
    # Padding repeats the first token and is then taken out of the sum.
    table = [[*allowed[i], *[allowed[i][0]] * (width - len(allowed[i]))] for i in bound]
    extra = [[False] * len(allowed[i]) + [True] * (width - len(allowed[i])) for i in bound]
    lines = torch.tensor(bound, device=logits.device)
    chosen = logits[lines].gather(-1, torch.tensor(table, device=logits.device))
    chosen = chosen.masked_fill(torch.tensor(extra, device=logits.device), -torch.inf)
    return free.index_put((lines,), chosen.logsumexp(-1))
