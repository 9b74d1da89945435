"""Stage 3: one causal attention lets each token look back."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gptlab.model.attention.base import check_attention, within_documents
from gptlab.model.base import LanguageModel
from gptlab.model.stage2 import Stage2, Trunk2


class Trunk3(Trunk2):
    """As `Trunk2`, followed by an attention."""

    def __init__(self, *, attention: nn.Module, **parts: Any) -> None:
        super().__init__(**parts)
        self.attention = attention

    def forward(self, tokens: Tensor, *, documents: Tensor | None = None) -> Tensor:
        mask = None if documents is None else within_documents(documents)[0]
        return self.attention(super().forward(tokens, documents=documents), mask=mask)  # (B, T, C)


class Stage3(Stage2):
    """`Stage2` with one attention, made from `(d_model, n_heads, context_length, dropout, qkv_bias)`."""

    fixed_by_weights = ("d_model", "n_heads", "qkv_bias", "norm", "positions")

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        n_heads: int,
        d_model: int,
        dropout: float,
        qkv_bias: bool,
        attention: Callable[..., nn.Module],
        norm: Callable[..., nn.Module],
        positions: Callable[..., nn.Module],
        init: Callable[[nn.Module], None],
    ) -> None:
        LanguageModel.__init__(self)
        self.vocab_size, self.context_length = vocab_size, context_length
        mixing: Any = attention(
            d_model=d_model, n_heads=n_heads, context_length=context_length, dropout=dropout, qkv_bias=qkv_bias
        )
        check_attention(mixing)
        self.trunk = Trunk3(
            token_embedding=nn.Embedding(vocab_size, d_model),
            position_embedding=positions(d_model=d_model, context_length=context_length),
            norm=norm(d_model=d_model),
            attention=mixing,
        )
        self.causal = mixing.causal
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.trunk.token_embedding.weight
        init(self)
