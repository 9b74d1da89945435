"""One learned vector for each position, as in GPT-2."""

from torch import nn


class LearnedPositions(nn.Embedding):
    """A table of `context_length` vectors: (T,) to (T, C), or (B, T) to (B, T, C)."""

    def __init__(self, *, d_model: int, context_length: int) -> None:
        super().__init__(context_length, d_model)

    def shorten(self, context_length: int) -> None:
        self.weight = nn.Parameter(self.weight[:context_length].detach().clone())
        self.num_embeddings = context_length
