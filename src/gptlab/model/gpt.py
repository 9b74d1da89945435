"""GPT-2 (Radford et al. 2019): a decoder-only transformer with learned positions and pre-LN blocks.

Shapes, here and in every file of this folder:
    B  sequences in the batch       C  d_model, the width of the residual stream
    T  tokens of a sequence         H  attention heads
    V  vocabulary                   D  head_dim = C / H
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gptlab.model.base import Captured, LanguageModel
from gptlab.model.block import Block
from gptlab.model.cache import KVCache
from gptlab.model.recording import capture


class Trunk(nn.Module):
    """Everything below the head: embeddings, blocks, final norm."""

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        n_layers: int,
        d_model: int,
        dropout: float,
        block: Callable[[], Block],
    ) -> None:
        super().__init__()
        self.context_length = context_length
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(context_length, d_model)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([block() for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """Hidden states of each token.

        Args:
            tokens: ids, (B, T); with a cache, only those that follow what it holds already.
            cache: keys and values of the tokens before; it advances by T.

        Returns:
            (B, T, C)

        Raises:
            ValueError: where past and new tokens together exceed the context.
        """
        n_new = tokens.shape[1]
        n_past = 0 if cache is None else cache.length
        if n_past + n_new > self.context_length:
            raise ValueError(f"{n_past + n_new} tokens do not fit into context_length={self.context_length}")

        if cache is None:
            positions, mask = torch.arange(n_new, device=tokens.device), None  # (T,)
        else:
            positions, mask = cache.positions(n_new, tokens.device), cache.mask(n_new)

        x = self.token_embedding(tokens) + self.position_embedding(positions)  # (B, T, C)
        x = self.dropout(x)
        for index, block in enumerate(self.blocks):
            x = block(x, mask=mask, cache=None if cache is None else cache.layers[index])
        if cache is not None:
            cache.advance(n_new)
        return self.norm(x)


class GPT(LanguageModel):
    """A language model: token ids in, the next token's logits out.

    Args:
        vocab_size: V.
        context_length: the longest sequence, in tokens; there is one learned position for each.
        n_layers, n_heads, d_model: depth, heads a layer, width.
        dropout: probability, after the embeddings, in attention and on both residual branches.
        qkv_bias: whether the projections to queries, keys and values have a bias (GPT-2's have).
        tie_head: whether the head shares the token embedding's weights (Press and Wolf 2017, arXiv:1608.05859).
        attention: makes one layer's attention from `(d_model, n_heads, context_length, dropout, qkv_bias)`.
        init: gives the model its first weights.

    Raises:
        ValueError: on sizes that do not fit together.
    """

    trunk: Trunk
    head: nn.Linear
    fixed_by_weights = ("n_layers", "n_heads", "d_model", "qkv_bias", "tie_head")

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        n_layers: int,
        n_heads: int,
        d_model: int,
        dropout: float,
        qkv_bias: bool,
        tie_head: bool,
        attention: Callable[..., nn.Module],
        init: Callable[[nn.Module], None],
    ) -> None:
        super().__init__()
        for name, size in {
            "vocab_size": vocab_size,
            "context_length": context_length,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "d_model": d_model,
        }.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if d_model % n_heads != 0:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must lie in [0, 1)")

        def block() -> Block:
            layer_attention = attention(
                d_model=d_model,
                n_heads=n_heads,
                context_length=context_length,
                dropout=dropout,
                qkv_bias=qkv_bias,
            )
            return Block(d_model=d_model, dropout=dropout, attention=layer_attention)

        self.context_length, self.vocab_size, self.n_heads = context_length, vocab_size, n_heads
        self.trunk = Trunk(
            vocab_size=vocab_size,
            context_length=context_length,
            n_layers=n_layers,
            d_model=d_model,
            dropout=dropout,
            block=block,
        )
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        if tie_head:
            self.head.weight = self.trunk.token_embedding.weight
        init(self)

    @property
    def is_tied(self) -> bool:
        """Whether the head and the token embedding are one tensor."""
        return self.head.weight is self.trunk.token_embedding.weight

    @property
    def token_vectors(self) -> Tensor:
        return self.trunk.token_embedding.weight

    @property
    def sizes(self) -> dict[str, int | str]:
        return {
            "n_layers": len(self.trunk.blocks),
            "n_heads": self.n_heads,
            "d_model": self.head.in_features,
            **super().sizes,
            "head": "tied to the token embedding" if self.is_tied else "of its own",
        }

    def new_cache(
        self, padding: Tensor | None = None, *, capacity: int | None = None, dtype: torch.dtype | None = None
    ) -> KVCache:
        """An empty cache for one batch.

        Args:
            padding: filler tokens on the left of each prompt, (B,); None where there are none.
            capacity: tokens that it has room for; None for the whole context.
            dtype: what keys and values are kept in; None for what they come in.
        """
        return KVCache(
            n_layers=len(self.trunk.blocks),
            capacity=self.context_length if capacity is None else capacity,
            padding=padding,
            dtype=dtype,
        )

    def shorten(self, context_length: int) -> None:
        """Reduce the context in place: learned positions beyond it are cut off."""
        positions = self.trunk.position_embedding.weight[:context_length].detach().clone()
        self.trunk.position_embedding = nn.Embedding.from_pretrained(positions, freeze=False)
        self.context_length = self.trunk.context_length = context_length

    @torch.no_grad()
    def capture(self, tokens: Tensor) -> Captured:
        return capture(self, tokens)
