"""Pure functions on logits (B, V) that pick the next token."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Sampler = Callable[[Tensor], Tensor]
"""(B, V) logits -> (B,) ids"""


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """All but the `top_k` largest logits of each row become -inf (Fan et al. 2018, arXiv:1805.04833)."""
    k = min(top_k, logits.shape[-1])
    kth_largest = logits.topk(k).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < kth_largest, -math.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probabilities reach `top_p`.

    The nucleus of Holtzman et al. 2020 (arXiv:1904.09751); the most likely token always stays.
    """
    ordered, order = logits.sort(descending=True)  # (B, V)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # what the more likely ones hold together
    dropped = before >= top_p
    dropped[:, 0] = False
    return logits.masked_fill(dropped.scatter(1, order, dropped), -math.inf)


def greedy(logits: Tensor) -> Tensor:
    """The most likely token of each row, (B,)."""
    return logits.argmax(dim=-1)


def make_sampler(
    *, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Sampler:
    """A sampler of these settings; None is no limit, or torch's own generator. ValueError if one is out of range.

    Temperature 0 means greedy, and so does a value that float32 rounds to 0.
    """
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must lie in (0, 1]")
    if temperature < torch.finfo(torch.float32).tiny:
        return greedy

    def sample(logits: Tensor) -> Tensor:
        # shifted so that the largest is 0: a tiny temperature then yields -inf for the others, never inf - inf
        logits = (logits - logits.max(dim=-1, keepdim=True).values) / temperature
        if top_k is not None:
            logits = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        try:
            return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]
        except RuntimeError:
            raise ValueError("the model predicts nan or infinity: its training has diverged") from None

    return sample
