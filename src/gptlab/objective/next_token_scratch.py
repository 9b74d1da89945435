"""Predict each next token, with the cross-entropy step by step.

Build a Large Language Model (From Scratch), section 5.1.
"""

from torch import Tensor

from gptlab.objective.next_token import IGNORED, NextToken


class NextTokenScratch(NextToken):
    """`NextToken` without torch's cross_entropy."""

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-ln softmax(logits)[target] = log-sum-exp(logits) - logits[target], summed: (n, V) and (n,) to ()."""
        logits = logits.float()
        highest = logits.max(dim=-1, keepdim=True).values  # (n, 1); without it, exp would overflow
        log_sum = highest + (logits - highest).exp().sum(dim=-1, keepdim=True).log()  # (n, 1)
        chosen = logits.gather(1, targets.clamp(min=0)[:, None])  # (n, 1)
        return (log_sum - chosen).squeeze(1).masked_fill(targets == IGNORED, 0.0).sum()
