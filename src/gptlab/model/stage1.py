"""Stage 1, a lookup: the next token follows from the current one alone.

Its loss cannot fall below the entropy of pairs of tokens, since it sees nothing else.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.base import LanguageModel


class Stage1(LanguageModel):
    """Embedding, GELU, linear head; tokens are not mixed.

    Args:
        init: gives the model its first weights.
    """

    trunk: "Lookup"
    fixed_by_weights = ("d_model",)

    def __init__(
        self, *, vocab_size: int, context_length: int, d_model: int, init: Callable[[nn.Module], None]
    ) -> None:
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.trunk = Lookup(vocab_size, d_model)
        self.head = nn.Linear(d_model, vocab_size)
        init(self)

    def extend(self, context_length: int) -> None:
        """A lookup has no positions that could end."""
        self.context_length = context_length

    @property
    def token_vectors(self) -> Tensor:
        return self.trunk.weight


class Lookup(nn.Embedding):
    """Tokens (B, T) to (B, T, C)."""

    def forward(self, tokens: Tensor, *, documents: Tensor | None = None) -> Tensor:
        return F.gelu(super().forward(tokens))
