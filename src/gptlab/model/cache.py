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
    """

    def __init__(self, *, n_layers: int, capacity: int, padding: Tensor | None = None) -> None:
        self.length = 0
        self.capacity = capacity
        self.padding = padding
        self.layers = [LayerCache(self) for _ in range(n_layers)]

    def advance(self, n_new: int) -> None:
        self.length += n_new

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
            self._keys = keys.new_empty(batch, heads, self._cache.capacity, head_dim)
            self._values = values.new_empty(batch, heads, self._cache.capacity, head_dim)
        start, end = self._cache.length, self._cache.length + keys.shape[2]
        self._keys[:, :, start:end] = keys
        self._values[:, :, start:end] = values
        return self._keys[:, :, :end], self._values[:, :, :end]
