"""The KV cache: keys and values of earlier tokens, so that attention does not compute them again."""

import torch
from torch import Tensor


class KVCache:
    """Keys and values of one batch of sequences, one `LayerCache` a layer.

    Within one forward pass every layer appends at `length`, and the model advances it after the last layer. If it is
    reduced, new tokens overwrite the last ones. Prompts of unequal length are padded on the left, so that all rows
    append at the same place. Padding is masked, and positions count from the first real token.

    The arguments are those of `LanguageModel.new_cache`.
    """

    def __init__(
        self, *, n_layers: int, capacity: int, padding: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.length = 0
        self.capacity = capacity
        self.dtype = dtype
        self.padding = padding
        self.layers = [LayerCache(self) for _ in range(n_layers)]
        self._tokens: Tensor | None = None  # of a model that asks for them

    def positions(self, n_new: int, device: torch.device) -> Tensor:
        """Positions of the next tokens: (T,), or (B, T) with padding."""
        positions = torch.arange(self.length, self.length + n_new, device=device)  # (T,)
        if self.padding is None:
            return positions
        return (positions - self.padding[:, None]).clamp(min=0)  # (B, T)

    def mask(self, n_new: int) -> Tensor | None:
        """True for keys that are real tokens, (B, past + T); None if all are."""
        if self.padding is None:
            return None
        keys = torch.arange(self.length + n_new, device=self.padding.device)
        return keys >= self.padding[:, None]

    def append_tokens(self, tokens: Tensor, *, padding_id: int) -> Tensor:
        """Store the new ids (B, T) and return all so far, (B, past + T), padding as `padding_id`."""
        if self._tokens is None:
            self._tokens = tokens.new_empty(len(tokens), self.capacity)
        n_new = tokens.shape[1]
        mask = self.mask(n_new)  # (B, past + T)
        self._tokens.narrow(1, self.length, n_new).copy_(tokens)
        seen = self._tokens.narrow(1, 0, self.length + n_new)
        return seen if mask is None else seen.masked_fill(~mask, padding_id)


class LayerCache:
    """Keys and values of one layer, allocated at the first append."""

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
