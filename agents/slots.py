"""A key-value cache with one slot an episode, each slot of its own length.

Rows of a batch are slots at the front of the tensors, so that decoding reads plain views; slots
that must act together are moved there first. The model sees an ordinary `transformers` cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .torch_first import torch, transformers

GROWTH = 128
"""Tokens by which every slot grows at least when one is full."""


@dataclass(slots=True)
class Slot:
    """What one slot of the cache holds."""

    episode: str | None = None
    tokens: list[int] = field(default_factory=list)
    """The tokens whose keys and values are there."""
    used: int = 0
    """When it was last used; the smallest is evicted first."""


class SlotLayer(transformers.cache_utils.CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values: (slots, heads, capacity, width)."""

    is_sliding = False

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots, self.capacity = slots, 0
        self.rows: torch.Tensor | slice = slice(0, 0)
        self.lines = self.positions = torch.zeros(0, 0, dtype=torch.long)
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        # Zeros: a masked position enters the sum with weight zero, so no NaN may be there.
        self.keys = self._empty(key_states)
        self.values = self._empty(value_states)
        self.is_initialized = True

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self.slots, like.shape[1], self.capacity, like.shape[3])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        cells = (self.lines, slice(None), self.positions)
        self.keys[cells] = key_states.transpose(1, 2)
        self.values[cells] = value_states.transpose(1, 2)
        rows = self.rows
        return self.keys[rows, :, : self.length], self.values[rows, :, : self.length]

    def grow(self, capacity: int) -> None:
        """Make room; what is there stays."""
        old, self.capacity = self.capacity, capacity
        if self.is_initialized:
            for name in ("keys", "values"):
                before = self.__dict__[name]
                self.__dict__[name] = self._empty(before)
                self.__dict__[name][:, :, :old] = before

    def swap(self, left: torch.Tensor, right: torch.Tensor, length: int) -> None:
        """Exchange the slots `left` and `right`, up to `length` tokens."""
        if self.is_initialized:
            there, here = torch.cat([right, left]), torch.cat([left, right])
            for states in (self.keys, self.values):
                assert states is not None
                states[here, :, :length] = states[there, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class SlotCache(transformers.Cache):  # type: ignore[misc]
    """The slots of all layers, and which episode has which."""

    layers: list[SlotLayer]

    def __init__(self, layers: int, slots: int, device: torch.device) -> None:
        super().__init__(layers=[SlotLayer(slots) for _ in range(layers)])
        self.slots = [Slot() for _ in range(slots)]
        self.device = device
        self.capacity = 0
        self.clock = 0

    def find(self, episodes: Sequence[str]) -> list[int]:
        """Give the slot of each episode; the least recently used make room for new ones."""
        self.clock += 1
        held = {slot.episode: i for i, slot in enumerate(self.slots) if slot.episode is not None}
        wanted = set(episodes)
        spare = sorted(
            (i for i, slot in enumerate(self.slots) if slot.episode not in wanted),
            key=lambda i: (self.slots[i].episode is not None, self.slots[i].used),
            reverse=True,
        )
        found = []
        for episode in episodes:
            index = held.get(episode)
            if index is None:
                index = spare.pop()
                self.slots[index] = Slot(episode)
            self.slots[index].used = self.clock
            found.append(index)
        return found

    def front(self, wanted: Sequence[int]) -> list[int]:
        """Move slots to the front; give where each is now."""
        count = len(wanted)
        holes = sorted(set(range(count)) - set(wanted))
        far = [index for index in wanted if index >= count]
        if far:
            length = max(len(self.slots[i].tokens) for i in far + holes)
            left = torch.tensor(holes, device=self.device)
            right = torch.tensor(far, device=self.device)
            for layer in self.layers:
                layer.swap(left, right, length)
            for a, b in zip(holes, far, strict=True):
                self.slots[a], self.slots[b] = self.slots[b], self.slots[a]
        moved = dict(zip(far, holes, strict=True))
        return [moved.get(index, index) for index in wanted]

    def place(self, rows: Sequence[int], pieces: Sequence[Sequence[int]]) -> torch.Tensor:
        """Say where the next forward pass writes: `pieces` at the ends of the slots `rows`.

        Returns:
            The positions (rows, width), each piece at the right; padding has the last cell, which
            no row ever reads as its own.
        """
        width = max(len(piece) for piece in pieces)
        length = max(len(self.slots[r].tokens) + len(p) for r, p in zip(rows, pieces, strict=True))
        if length >= self.capacity:
            self.capacity = max(length + 1, min(self.capacity * 2, length + 1024), GROWTH)
            for layer in self.layers:
                layer.grow(self.capacity)
        dump = self.capacity - 1
        positions = torch.tensor(
            [
                [dump] * (width - len(piece))
                + list(range(len(self.slots[r].tokens), len(self.slots[r].tokens) + len(piece)))
                for r, piece in zip(rows, pieces, strict=True)
            ],
            device=self.device,
        )
        front = list(rows) == list(range(len(rows)))
        lines = torch.tensor(list(rows), device=self.device)
        for layer in self.layers:
            layer.rows = slice(0, len(rows)) if front else lines
            layer.lines, layer.positions, layer.length = lines[:, None], positions, length
        for row, piece in zip(rows, pieces, strict=True):
            self.slots[row].tokens += piece
        return positions

    def forget(self, episode: str | None = None) -> None:
        """Free an episode's slot, or all of them."""
        for index, slot in enumerate(self.slots):
            if episode is None or slot.episode == episode:
                self.slots[index] = Slot()
