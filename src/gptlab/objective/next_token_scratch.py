"""Predict each next token, with the cross-entropy step by step.

Build a Large Language Model (From Scratch), section 5.1.
"""

from torch import Tensor, nn

from gptlab.objective.base import IGNORED
from gptlab.objective.chunked import in_chunks
from gptlab.objective.next_token import NextToken


class NextTokenScratch(NextToken):
    """`NextToken` without a gradient of our own and without torch's cross_entropy."""

    def summed_loss(self, hidden: Tensor, head: nn.Module, *, targets: Tensor, vocab_size: int) -> Tensor:
        return in_chunks(hidden, head, self.cross_entropy, targets=targets, vocab_size=vocab_size).sum()

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-ln softmax(logits)[target] = log-sum-exp(logits) - logits[target]: (n, V) and (n,) to (n,)."""
        logits = logits.float()  # half precision would round the loss of a large vocabulary
        highest = logits.max(dim=-1, keepdim=True).values  # (n, 1); without it, exp would overflow
        log_sum = highest + (logits - highest).exp().sum(dim=-1, keepdim=True).log()  # (n, 1)
        chosen = logits.gather(1, targets.clamp(min=0)[:, None])  # (n, 1)
        return (log_sum - chosen).squeeze(1).masked_fill(targets == IGNORED, 0.0)
