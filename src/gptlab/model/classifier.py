"""A GPT with a head over labels instead of tokens: one answer for a whole text."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from gptlab.model.gpt import GPT


class GPTClassifier(GPT):
    """Texts in, logits over labels out. The head has no bias and is never tied, as in GPT2ForSequenceClassification.

    Args:
        pool: what the head reads: the hidden state of the last real token or the first, or the mean of the real ones.
        labels: names, in the order of the logits; None, before data is read, stands for any two.
        gpt: the arguments of `GPT`.
    """

    generates = False

    def __init__(self, *, pool: Literal["last", "mean", "first"], labels: list[str] | None, **gpt: Any) -> None:
        self.pool, self.labels = pool, ["0", "1"] if labels is None else labels
        if len({*self.labels}) < max(2, len(self.labels)):
            raise ValueError(f"labels={labels} must be at least two different names")
        super().__init__(**gpt)
        self.head = nn.Linear(gpt["d_model"], len(self.labels), bias=False)
        gpt["init"](self.head)

    def forward(self, tokens: Tensor, *, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """Logits of each label, (B, n_labels), of ids padded on the right (B, T) and their real lengths (B,)."""
        positions, ends = torch.arange(tokens.shape[1], device=tokens.device), lengths[:, None]
        real = positions < ends  # (B, T)
        # a causal model's real tokens do not see the padding to their right
        hidden = self.trunk(tokens, documents=None if self.causal else real.long())  # (B, T, C)
        read = {"last": positions == ends - 1, "first": (positions == 0) & real, "mean": real}[self.pool]
        shares = read.to(hidden.dtype) / read.sum(dim=1, keepdim=True)  # (B, T), rows sum to 1
        return self.head((shares[:, None] @ hidden)[:, 0])

    @property
    def sizes(self) -> dict[str, int | str]:
        return {**super().sizes, "head": f"{len(self.labels)} labels, pool={self.pool}"}
