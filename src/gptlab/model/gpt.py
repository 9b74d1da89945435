"""GPT-2 (Radford et al. 2019): a decoder-only transformer of pre-LN blocks, composed of parts that can be exchanged.

Shapes, here and in every file of this folder:
    B  sequences in the batch       C  d_model, the width of the residual stream
    T  tokens of a sequence         H  attention heads
    V  vocabulary                   D  head_dim = C / H
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.model.attention.base import check_attention, within_documents
from gptlab.model.base import Captured, LanguageModel, Tune
from gptlab.model.block import Block
from gptlab.model.cache import KVCache
from gptlab.model.recording import capture

Factory = Callable[..., nn.Module]


class Trunk(nn.Module):
    """Everything below the head: embeddings, blocks, final norm."""

    blocks: Any  # an nn.ModuleList of `Block`

    def __init__(
        self,
        *,
        context_length: int,
        token_embedding: nn.Embedding,
        position_embedding: Any,
        dropout: float,
        blocks: list[Block],
        norm: nn.Module,
    ) -> None:
        super().__init__()
        self.context_length = context_length
        self.token_embedding = token_embedding
        self.position_embedding = position_embedding
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    def forward(self, tokens: Tensor, *, cache: KVCache | None = None, documents: Tensor | None = None) -> Tensor:
        """Hidden states of each token, (B, T, C); the arguments are those of `LanguageModel.forward`."""
        n_new = tokens.shape[1]
        n_past = 0 if cache is None else cache.length
        if n_past + n_new > self.context_length:
            raise ValueError(f"{n_past + n_new} tokens do not fit into context_length={self.context_length}")
        if cache is not None and documents is not None:
            raise ValueError("each row of a cache is one document: use a cache or documents, not both")

        mask, positions = None, torch.arange(n_new, device=tokens.device)  # (T,)
        if documents is not None:
            mask, positions = within_documents(documents)
        elif cache is not None:
            mask, positions = cache.mask(n_new), cache.positions(n_new, tokens.device)

        x = self.embed(tokens, cache, documents)  # (B, T, C)
        x = self.dropout((x + self.position_embedding(positions)).to(x.dtype))
        for index, block in enumerate(self.blocks):
            x = block(x, mask=mask, positions=positions, cache=None if cache is None else cache.layers[index])
        if cache is not None:
            cache.length += n_new
        return self.norm(x)

    def embed(self, tokens: Tensor, cache: KVCache | None, documents: Tensor | None) -> Tensor:
        """The vector of each token, before positions: (B, T) to (B, T, C)."""
        return self.token_embedding(tokens)


class GPT(LanguageModel):
    """Embeddings, blocks and a head. Without layers it is a bigram model.

    Args:
        dropout: probability, after the embeddings, in attention and on both residual branches.
        qkv_bias: whether the projections to queries, keys and values have a bias (GPT-2's have).
        tie_head: whether the head shares the token embedding's weights (Press and Wolf 2017, arXiv:1608.05859).
        attention: makes one layer's attention from `(d_model, n_heads, context_length, dropout, qkv_bias)`.
        norm, feed_forward: make one layer's from `(d_model)`.
        positions: makes what is added to token vectors from `(d_model, context_length)`.
        init: gives the model its first weights.
    """

    trunk: Trunk
    head: nn.Linear
    make_trunk: Callable[..., Trunk] = Trunk
    fixed_by_weights: tuple[str, ...] = (
        "n_layers",
        "n_heads",
        "d_model",
        "qkv_bias",
        "tie_head",
        "norm",
        "feed_forward",
        "positions",
    )

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
        attention: Factory,
        norm: Factory,
        feed_forward: Factory,
        positions: Factory,
        init: Callable[[nn.Module], None],
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "context_length": context_length, "n_heads": n_heads, "d_model": d_model}
        for name, size, least in [*((name, size, 1) for name, size in sizes.items()), ("n_layers", n_layers, 0)]:
            if size < least:
                raise ValueError(f"{name}={size} must be at least {least}")
        if d_model % n_heads != 0:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must lie in [0, 1)")

        def block() -> Block:
            mixing = attention(
                d_model=d_model, n_heads=n_heads, context_length=context_length, dropout=dropout, qkv_bias=qkv_bias
            )
            check_attention(mixing)
            return Block(
                norm1=norm(d_model=d_model),
                attention=mixing,
                norm2=norm(d_model=d_model),
                feed_forward=feed_forward(d_model=d_model),
                dropout=dropout,
            )

        self.context_length, self.vocab_size, self.n_heads = context_length, vocab_size, n_heads
        self.trunk = self.make_trunk(
            context_length=context_length,
            token_embedding=nn.Embedding(vocab_size, d_model),
            position_embedding=positions(d_model=d_model, context_length=context_length),
            dropout=dropout,
            blocks=[block() for _ in range(n_layers)],
            norm=norm(d_model=d_model),
        )
        if hasattr(self.trunk.position_embedding, "attach"):  # positions that work inside attention
            for part in self.trunk.blocks:
                self.trunk.position_embedding.attach(part.attention)
        self.causal = all(block.attention.causal for block in self.trunk.blocks)
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
            "d_model": self.trunk.token_embedding.embedding_dim,
            **super().sizes,
            "head": "tied to the token embedding" if self.is_tied else "of its own",
        }

    def new_cache(
        self, padding: Tensor | None = None, *, capacity: int | None = None, dtype: torch.dtype | None = None
    ) -> KVCache | None:
        blocks = self.trunk.blocks
        if not (blocks and self.causal and all(block.attention.uses_cache for block in blocks)):
            return None
        capacity = self.context_length if capacity is None else capacity
        return KVCache(n_layers=len(blocks), capacity=capacity, padding=padding, dtype=dtype)

    def tune(self, what: Tune) -> None:
        if what != "last_block" or not self.trunk.blocks:
            return super().tune(what)
        self.requires_grad_(False)
        for part in (self.trunk.blocks[-1], self.trunk.norm, self.head):
            part.requires_grad_(True)
        return None

    def shorten(self, context_length: int) -> None:
        self.trunk.position_embedding.shorten(context_length)
        self.context_length = self.trunk.context_length = context_length

    def extend(self, context_length: int) -> None:
        super().extend(context_length)
        self.trunk.context_length = context_length

    def capture(self, tokens: Tensor) -> Captured:
        return capture(self, tokens)
