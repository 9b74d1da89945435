"""The KV cache: what attention has computed for earlier tokens and need not compute again."""

import torch
from torch import Tensor


class KVCache:
    """Keys and values of one batch of sequences, one `LayerCache` a layer.

    The layers write, the model advances: within one forward pass every layer appends at the same place, and only when
    the last is done does `length` grow.

    Prompts of unequal length are padded on the left, so that all rows append at the same place; `padding` says how much
    of a row is filler. Filler is masked, and positions count from the first real token.

    Args:
        n_layers: number of layers.
        capacity: the most tokens that it can hold.
        padding: filler tokens on the left of each row, (B,); None where there are none.
        dtype: what keys and values are kept in; None for what they come in.
    """

    def __init__(
        self, *, n_layers: int, capacity: int, padding: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.length = 0
        self.capacity = capacity
        self.dtype = dtype
        self.padding = padding
        self.layers = [LayerCache(self) for _ in range(n_layers)]

    def advance(self, n_new: int) -> None:
        self.length += n_new

    def retract(self, n_last: int) -> None:
        """Forget the last tokens: what follows is written over them."""
        self.length -= n_last

    def restart(self, rows: Tensor, fresh: "KVCache") -> None:
        """Give some rows the content of another cache; the others keep theirs.

        All rows end at the same place, so where the longest row becomes shorter, every row moves to the left.

        Args:
            rows: which rows, (R,).
            fresh: a cache of R sequences of one length.
        """
        padding = self.padding if self.padding is not None else rows.new_zeros(self.layers[0].n_rows)
        padding = padding.index_fill(0, rows, self.length - fresh.length)  # (B,)
        gap = int(padding.min())
        for layer, fresh_layer in zip(self.layers, fresh.layers, strict=True):
            layer.shift_left(gap)
            layer.overwrite(rows, fresh_layer, end=self.length - gap)
        self.length -= gap
        self.padding = padding - gap

    def positions(self, n_new: int, device: torch.device) -> Tensor:
        """Positions of the next tokens: (T,), or (B, T) with padding."""
        positions = torch.arange(self.length, self.length + n_new, device=device)  # (T,)
        if self.padding is None:
            return positions
        return (positions - self.padding[:, None]).clamp(min=0)  # (B, T)

    def mask(self, n_new: int) -> Tensor | None:
        """True where a key is a real token, (B, past + T); None where all are."""
        if self.padding is None:
            return None
        keys = torch.arange(self.length + n_new, device=self.padding.device)
        return keys >= self.padding[:, None]


class LayerCache:
    """Keys and values of one layer, allocated once, at the first append."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new (B, H, T, D) and return all so far, (B, H, past + T, D), as views."""
        if self._keys is None or self._values is None:
            batch, heads, _, head_dim = keys.shape
            shape = batch, heads, self._cache.capacity, head_dim
            self._keys = keys.new_empty(shape, dtype=self._cache.dtype)
            self._values = values.new_empty(shape, dtype=self._cache.dtype)
        start, n_new = self._cache.length, keys.shape[2]
        self._keys.narrow(2, start, n_new).copy_(keys)
        self._values.narrow(2, start, n_new).copy_(values)
        return self._keys.narrow(2, 0, start + n_new), self._values.narrow(2, 0, start + n_new)

    @property
    def n_rows(self) -> int:
        return 0 if self._keys is None else len(self._keys)

    def _stored(self) -> tuple[Tensor, ...]:
        """The keys and the values in use, (B, H, length, D) each; nothing before the first append."""
        tensors = (self._keys, self._values)
        return tuple(tensor[:, :, : self._cache.length] for tensor in tensors if tensor is not None)

    def shift_left(self, gap: int) -> None:
        """Drop the first `gap` places."""
        for stored in self._stored() if gap > 0 else ():
            stored[:, :, :-gap] = stored[:, :, gap:].clone()  # the two overlap

    def overwrite(self, rows: Tensor, other: "LayerCache", *, end: int) -> None:
        """Put what another layer holds into some rows, so that it ends at `end`."""
        for stored, new in zip(self._stored(), other._stored(), strict=False):  # it may hold nothing
            stored[rows, :, end - new.shape[2] : end] = new
