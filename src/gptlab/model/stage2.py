"""Stage 2: positions, a norm and a tied head are added to the lookup. Tokens are still not mixed.

The GELU between a tied embedding and head is needed: a product of token vectors alone is symmetric, and "q is followed
by u" is not.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.attention.base import within_documents
from gptlab.model.base import LanguageModel


class Trunk2(nn.Module):
    """Token and position embedding, norm, GELU: tokens (B, T) to (B, T, C)."""

    def __init__(self, *, token_embedding: nn.Embedding, position_embedding: Any, norm: nn.Module) -> None:
        super().__init__()
        if hasattr(position_embedding, "attach"):
            raise ValueError("rotary positions need the attention of a GPT, such as model=stage4")
        self.token_embedding = token_embedding
        self.position_embedding = position_embedding
        self.norm = norm

    def forward(self, tokens: Tensor, *, documents: Tensor | None = None) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)  # (T,)
        if documents is not None:
            _, positions = within_documents(documents)
        x = self.token_embedding(tokens)  # (B, T, C)
        x = (x + self.position_embedding(positions)).to(x.dtype)
        return F.gelu(self.norm(x))


class Stage2(LanguageModel):
    """An embedding of tokens and positions, a norm, and a head that shares the token embedding's weights.

    Args:
        norm: makes the norm from `(d_model)`.
        positions: makes what is added to token vectors from `(d_model, context_length)`.
        init: gives the model its first weights.
    """

    trunk: Trunk2
    fixed_by_weights: tuple[str, ...] = ("d_model", "norm", "positions")

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        d_model: int,
        norm: Callable[..., nn.Module],
        positions: Callable[..., nn.Module],
        init: Callable[[nn.Module], None],
    ) -> None:
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.trunk = Trunk2(
            token_embedding=nn.Embedding(vocab_size, d_model),
            position_embedding=positions(d_model=d_model, context_length=context_length),
            norm=norm(d_model=d_model),
        )
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.trunk.token_embedding.weight
        init(self)

    @property
    def token_vectors(self) -> Tensor:
        return self.trunk.token_embedding.weight

    def shorten(self, context_length: int) -> None:
        self.trunk.position_embedding.shorten(context_length)
        self.context_length = context_length
