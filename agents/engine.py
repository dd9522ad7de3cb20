"""Local generation: batches of token rows in, sampled tokens and log-probabilities out.

Each episode's keys and values stay in a slot between turns (`slots`), so a turn costs the tokens
that are new and not the history. The engine is a pure function of the rows it is given: a slot is
only reused as far as its tokens are the row's prefix, and all slots are dropped when the weights
have changed. Models whose cache this cannot be done for (sliding windows, recurrent states) are
found out by a probe at the start, and recompute their rows instead.

Log-probabilities are those of the model itself (temperature 1, nothing cut off), as trainers need
them, whatever the temperature and top-p that the tokens were drawn with; where decoding was
restricted, they are renormalised over the tokens that were allowed.
"""

import inspect
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .checkpoint import configured
from .slots import SlotCache
from .torch_first import torch, transformers

Trie = Mapping[int, "Trie"]
"""Token -> what may follow it; empty where the reply ends."""
MASK_CELLS = 2**26
"""Cells of an attention mask that one forward pass may take; larger batches are split."""
PROBE_TOLERANCE = 1e-2
"""Largest difference of log-probabilities, cached against recomputed, as a share of what the
history changes in them: random weights react to a wrong mask little, but to any history too."""
HALF_TOLERANCE = 5e-2
"""The same for 16-bit weights, as a share of the largest logit, because their noise is larger."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row of tokens to continue."""

    episode: str
    """Key of the slot."""
    ids: Sequence[int]
    """The whole row so far."""
    seed: int
    allowed: Trie | None = None
    """What the reply may be; None leaves it free."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    max_new_tokens: int = 64
    """Where decoding is restricted, the allowed replies set the limit instead."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was drawn."""

    ids: tuple[int, ...]
    """The stop token is the last, where one was drawn."""
    log_probs: tuple[float, ...]
    full: bool = False
    """The context was full before the reply ended."""


@dataclass(slots=True)
class _Row:
    prompt: Prompt
    random: random.Random
    node: Trie | None
    slot: int = 0
    pending: list[int] = field(default_factory=list)
    """Tokens of the row that the model has not read yet."""
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finished: bool = False
    full: bool = False


def trie_of(replies: Iterable[Sequence[int]]) -> Trie:
    """Build the prefix tree of token rows; each must end in a stop token."""
    root: dict[int, Any] = {}
    for reply in replies:
        node = root
        for token in reply:
            node = node.setdefault(token, {})
    return root


class Engine:
    """Generates with one `transformers` causal language model."""

    def __init__(
        self, model: Any, *, stops: Iterable[int], max_context: int, slots: int = 64
    ) -> None:
        self.model = model
        self.stops = frozenset(stops)
        self.max_context = max_context
        self.slots = slots
        base = model if isinstance(model, transformers.PreTrainedModel) else model.get_base_model()
        self._keeps_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        self._version = self._weights_version()
        self._cache = self._new_cache()
        if self._cache is None:
            name = type(model).__name__
            logging.getLogger(__name__).info("%s: no cache between turns, rows are reread", name)

    @property
    def cached(self) -> bool:
        """Whether episodes keep their keys and values between turns."""
        return self._cache is not None

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Sample]:
        """Continue every row. Each result depends on its own row and seed only."""
        if self._cache is not None and self._version != self._weights_version():
            self._cache.forget()
            self._version = self._weights_version()
        training = self.model.training
        self.model.eval()
        samples: list[Sample] = []
        for batch in self._batches(prompts):
            samples += self._batch(batch, sampling)
        self.model.train(training)
        return samples

    def forget(self, episode: str) -> None:
        """Free what is kept for an episode."""
        if self._cache is not None:
            self._cache.forget(episode)

    def _batches(self, prompts: Sequence[Prompt]) -> Iterable[list[Prompt]]:
        """Split into batches of at most a prompt a slot and an episode."""
        batch: dict[str, Prompt] = {}
        for prompt in prompts:
            if len(batch) == self.slots or prompt.episode in batch:
                yield list(batch.values())
                batch = {}
            batch[prompt.episode] = prompt
        yield list(batch.values())

    def _batch(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Sample]:
        rows = [_Row(p, random.Random(p.seed), p.allowed) for p in prompts]
        for row in rows:
            row.full = row.finished = len(row.prompt.ids) >= self.max_context
        running = [row for row in rows if not row.finished]
        self._seat(running)
        for row in running:
            self._follow(row)
        running = [row for row in running if not row.finished]
        while running:
            self._draw(running, self._read(running), sampling)
            for row in running:
                self._check_end(row, sampling)
            running = [row for row in running if not row.finished]
        return [Sample(tuple(row.ids), tuple(row.log_probs), row.full) for row in rows]

    def _seat(self, rows: Sequence[_Row]) -> None:
        """Give each row its slot, and find what of it the model has not read."""
        if self._cache is None:
            for row in rows:
                row.pending = list(row.prompt.ids)
            return
        places = self._cache.find([row.prompt.episode for row in rows])
        for row, place in zip(rows, self._cache.front(places), strict=True):
            row.slot = place
            slot = self._cache.slots[place]
            shared = _shared(slot.tokens, row.prompt.ids)
            # The last token is read again if need be: its logits are what comes next.
            del slot.tokens[min(shared, len(row.prompt.ids) - 1) :]
            row.pending = list(row.prompt.ids[len(slot.tokens) :])

    # Reading: rows of pending tokens in, logits of what follows out.

    def _read(self, rows: Sequence[_Row]) -> torch.Tensor:
        if self._cache is None:
            return self._recompute(rows)
        for row, place in zip(rows, self._cache.front([r.slot for r in rows]), strict=True):
            row.slot = place
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i].pending), rows[i].slot))
        logits: list[torch.Tensor] = []
        longest = max(len(row.prompt.ids) + len(row.ids) for row in rows)
        for group in _groups([len(rows[i].pending) for i in order], longest):
            logits.append(self._forward([rows[i] for i in order[group]]))
        back = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=self._device)
        return torch.cat(logits)[back] if len(order) > 1 else logits[0]

    def _forward(self, rows: Sequence[_Row]) -> torch.Tensor:
        assert self._cache is not None
        rows_in_order = sorted(rows, key=lambda row: row.slot)
        pieces = [row.pending for row in rows_in_order]
        positions = self._cache.place([row.slot for row in rows_in_order], pieces)
        width = positions.shape[1]
        ids = torch.tensor([[0] * (width - len(p)) + p for p in pieces], device=self._device)
        cells = torch.arange(self._cache.layers[0].length, device=self._device)
        hidden = cells[None, None, :] > positions[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=self._device)
        mask = mask.masked_fill_(hidden, torch.finfo(self.model.dtype).min)[:, None]
        logits = self._call(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.clamp(max=self.max_context - 1),
            past_key_values=self._cache,
            use_cache=True,
        )[:, -1]
        for row in rows_in_order:
            row.pending = []
        if list(rows) == rows_in_order:
            return logits
        at = {id(row): index for index, row in enumerate(rows_in_order)}
        return logits[torch.tensor([at[id(row)] for row in rows], device=self._device)]

    def _recompute(self, rows: Sequence[_Row]) -> torch.Tensor:
        """Read whole rows anew, padded at the right, where no causal model looks."""
        lines = [row.pending for row in rows]
        width = max(map(len, lines))
        ids = torch.tensor([p + [0] * (width - len(p)) for p in lines], device=self._device)
        seen = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in lines])
        logits = self.model(input_ids=ids, attention_mask=seen.to(self._device), use_cache=False)
        last = torch.tensor([len(p) - 1 for p in lines], device=self._device)
        picked: torch.Tensor = logits.logits[torch.arange(len(lines), device=self._device), last]
        return picked

    def _call(self, **inputs: Any) -> torch.Tensor:
        if self._keeps_logits:
            inputs["logits_to_keep"] = 1
        logits: torch.Tensor = self.model(**inputs).logits
        return logits

    # Drawing: logits in, a token a row out.

    def _draw(self, rows: Sequence[_Row], logits: torch.Tensor, sampling: Sampling) -> None:
        logits = logits.float()
        restricted = [(i, list(row.node)) for i, row in enumerate(rows) if row.node is not None]
        if restricted:
            mask = torch.zeros_like(logits)
            mask[[i for i, _ in restricted]] = -torch.inf
            lines = [i for i, tokens in restricted for _ in tokens]
            mask[lines, [token for _, tokens in restricted for token in tokens]] = 0.0
            logits = logits + mask
        tokens = _choose(logits, [row.random.random() for row in rows], sampling)
        log_probs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0].tolist()
        for row, token, log_prob in zip(rows, tokens.tolist(), log_probs, strict=True):
            self._append(row, token, log_prob)
            self._follow(row)

    def _append(self, row: _Row, token: int, log_prob: float) -> None:
        row.ids.append(token)
        row.log_probs.append(log_prob)
        row.pending.append(token)
        if row.node is not None:
            row.node = row.node[token]

    def _follow(self, row: _Row) -> None:
        """Take the tokens that are forced; the model reads them together with the next one."""
        while row.node is not None and len(row.node) == 1:
            self._append(row, next(iter(row.node)), 0.0)
        if row.node is not None and not row.node:
            row.finished = True

    def _check_end(self, row: _Row, sampling: Sampling) -> None:
        ended = row.ids[-1] in self.stops if row.node is None else not row.node
        row.full = not ended and len(row.prompt.ids) + len(row.ids) >= self.max_context
        cut = row.node is None and len(row.ids) >= sampling.max_new_tokens
        row.finished = ended or row.full or cut

    # The model.

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def _weights_version(self) -> tuple[int, int]:
        # Torch counts in-place changes of each tensor; an optimiser's step is one.
        parameters = list(self.model.parameters())
        return sum(p._version for p in parameters), hash(tuple(p.data_ptr() for p in parameters))

    def _new_cache(self) -> SlotCache | None:
        """Make the slots if the model's cache can be kept so, which a probe finds out."""
        kinds = set(configured(self.model, "layer_types") or ["full_attention"])
        slides = configured(self.model, "use_sliding_window") is not False
        window = configured(self.model, "sliding_window") if slides else None
        if (kinds != {"full_attention"} or window is not None) and (
            window is None or window < self.max_context
        ):
            return None
        layers = int(configured(self.model, "num_hidden_layers") or 0)
        try:
            return self._probed(SlotCache(layers, 2, self._device), layers)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError):
            return None

    @torch.inference_mode()
    def _probed(self, cache: SlotCache, layers: int) -> SlotCache | None:
        training = self.model.training
        self.model.eval()
        self._cache = cache
        size = int(configured(self.model, "vocab_size"))
        lines = [[(7 * i + 3) % size for i in range(9)], [(5 * i + 1) % size for i in range(4)]]
        prompts = [Prompt(str(i), line, 0) for i, line in enumerate(lines)]
        rows = [_Row(prompt, random.Random(0), None) for prompt in prompts]
        self._seat(rows)
        for row, cut in zip(rows, (5, 1), strict=True):
            later, row.pending = row.pending[cut:], row.pending[:cut]
            row.ids = later
        self._read(rows)
        for row in rows:
            row.pending = row.ids
        logits = self._read(rows).float()
        ours = logits.log_softmax(-1)
        theirs = self._alone(lines)
        blind = self._alone([line[-1:] for line in lines])
        self.model.train(training)
        tolerance = 1e-5 + PROBE_TOLERANCE * (theirs - blind).abs().max().item()
        if self.model.dtype != torch.float32:
            tolerance = HALF_TOLERANCE * logits.abs().max().item()
        if not torch.isfinite(ours).all() or (ours - theirs).abs().max() > tolerance:
            return None
        return SlotCache(layers, self.slots, self._device)

    def _alone(self, lines: Sequence[list[int]]) -> torch.Tensor:
        """Give the log-probabilities of what follows each line, without a cache."""
        rows = [_Row(Prompt("", line, 0), random.Random(0), None, pending=line) for line in lines]
        return self._recompute(rows).float().log_softmax(-1)


def _groups(widths: Sequence[int], longest: int) -> list[slice]:
    """Split sorted rows so that little is padding and no mask grows too large."""
    groups, start = [], 0
    for index, width in enumerate(widths):
        padded = width > 2 * widths[start] + 16
        if index > start and (padded or (index - start + 1) * width * longest > MASK_CELLS):
            groups.append(slice(start, index))
            start = index
    return [*groups, slice(start, len(widths))]


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the tokens that two rows begin with alike."""
    count = min(len(left), len(right))
    if list(left[:count]) == list(right[:count]):
        return count
    return next(i for i in range(count) if left[i] != right[i])


def _choose(logits: torch.Tensor, draws: Sequence[float], sampling: Sampling) -> torch.Tensor:
    """Invert each row's distribution function at its own draw."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # In double precision, so that the order of the sum cannot matter for the token drawn.
    weights = (logits.double() / sampling.temperature).softmax(-1)
    order = None
    if sampling.top_p < 1:
        weights, order = weights.sort(stable=True, dim=-1, descending=True)
        before = weights.cumsum(-1) - weights
        weights = weights.masked_fill(before >= sampling.top_p, 0.0)
    totals = weights.cumsum(-1)
    at = torch.tensor(draws, dtype=totals.dtype, device=totals.device) * totals[:, -1]
    picked = torch.searchsorted(totals, at[:, None], right=True).clamp(max=logits.shape[-1] - 1)
    return (picked if order is None else order.gather(-1, picked))[:, 0]
