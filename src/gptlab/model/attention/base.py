"""What every attention promises, and the mask and positions of rows that hold several documents."""

import math

import torch
from torch import Tensor, nn

from gptlab.model.base import check_keywords
from gptlab.model.cache import LayerCache


class Attention(nn.Module):
    """Mixes the tokens of a sequence. Subclassing is optional: the attributes and the arguments are the contract.

    The constructor takes `(*, d_model, n_heads, context_length, dropout, qkv_bias)`; the values of further arguments
    come from the variant's yaml.

    Attributes:
        causal: whether a token sees only itself and earlier ones.
        family: variants with the same arithmetic have the same family and parameter names, so that weights move
            between them.
        uses_cache: whether `forward` appends to a cache; a model with an attention that does not has no cache.
    """

    causal: bool
    family: str
    uses_cache: bool

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Mix each token with those that it may see: (B, T, C) to (B, T, C).

        Args:
            mask: True for a key that may be seen, (B, past + T) for all queries or (B, 1, T, past + T) for each; a
                causal attention sees no later key in any case. None if all may be seen.
            positions: the position of each token in its document, (T,) or (B, T).
            cache: this layer's earlier keys and values; the new ones are appended.
        """
        raise NotImplementedError


class UncachedAttention(Attention):
    """An attention of the first rungs: it needs neither positions nor a cache, and implements `mix`."""

    uses_cache = False

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        if cache is not None:
            raise ValueError(f"{type(self).__name__} has no cache: it computes all tokens of a text together")
        return self.mix(x, mask)

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, C) to (B, T, C); the mask is that of `forward`."""
        raise NotImplementedError


def check_single_head(attention: nn.Module, n_heads: int) -> None:
    """Raise ValueError if a rung with a single head is asked for several."""
    if n_heads != 1:
        raise ValueError(f"{type(attention).__name__} has a single head, and n_heads={n_heads}: leave n_heads out")


def hide(scores: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """Scores (B, T, T) of a single head, -inf where a token may not look. A token always sees itself.

    `mask` is that of `Attention.forward`.
    """
    n_tokens, device = scores.shape[-1], scores.device
    allowed = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=device)  # (T, T)
    if causal:
        allowed = allowed.tril()
    if mask is not None:
        allowed = allowed & (mask[:, None, :] if mask.dim() == 2 else mask[:, 0])  # (B, T, T)
    itself = torch.eye(n_tokens, dtype=torch.bool, device=device)
    return scores.masked_fill(~(allowed | itself), -math.inf)


def check_attention(attention: nn.Module) -> None:
    """Raise ValueError, in one sentence, if an attention does not keep the contract of `Attention`."""
    for name, wanted in Attention.__annotations__.items():
        if not isinstance(getattr(attention, name, None), wanted):
            raise ValueError(f"{type(attention).__name__} must have the class attribute {name}: {wanted.__name__}")
    check_keywords(attention, "x", "mask", "positions", "cache")


def within_documents(documents: Tensor) -> tuple[Tensor, Tensor]:
    """The mask (B, 1, T, T) and the positions (B, T) of rows that hold several documents, (B, T).

    Padding sees padding alone, so that its softmax is defined.
    """
    same = documents[:, :, None] == documents[:, None, :]  # (B, T, T)
    return same[:, None], same.tril().sum(dim=-1) - 1
