"""Head and cross-entropy, a chunk of tokens at a time: the logits of all tokens never exist together.

The logits of 8 x 1024 tokens over GPT-2's vocabulary are 1.6 GB in float32, and torch's cross-entropy holds several
tensors of that size. Here a chunk's logits are overwritten by their gradient, then freed.

    loss = ln(sum over v of exp(logits[v])) - logits[target]        d loss / d logits = softmax(logits) - onehot(target)

Shapes: N tokens, n of them in a chunk, C the width of hidden states, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from gptlab.objective.base import IGNORED
from gptlab.private import has_hooks

MOST_LOGITS = 1 << 26
"""The most logits of a chunk: 1,335 tokens of GPT-2's vocabulary, 128 MiB in bfloat16.

Each chunk adds to the whole gradient of the head, so small ones are slow. MPS must not have seven times as many: its
product for 9 x 1024 tokens (4.6e8 logits) was silently wrong, 8 x 1024 was right (pytorch/pytorch#109457, #107294).
"""

IN_CACHE = 1 << 20
"""The most float32 numbers that a CPU normalizes at once, 4 MiB: they stay in its cache from one pass to the next."""

Measure = Callable[[Tensor, Tensor], Tensor]


def summed_loss(hidden: Tensor, head: nn.Module, *, targets: Tensor, vocab_size: int) -> Tensor:
    """Cross-entropy in nats, summed over the targets that are not -100, ().

    The gradient is computed in the forward pass, while a chunk's logits are there. In float16 it is computed in the
    backward pass, after the gradient scaler's factor, without which small numbers would become 0.

    Args:
        hidden: hidden states, (..., C).
        head: makes logits (..., V) of them.
        targets: token ids or -100, (...).
        vocab_size: V.
    """
    if not _is_linear(head) or _dtype(hidden) == torch.float16:
        return token_losses(hidden, head, targets=targets, vocab_size=vocab_size).sum()
    hidden, targets = _that_count(hidden.flatten(0, -2), targets.flatten())
    return _SummedLoss.apply(hidden, head.weight, targets, torch.is_grad_enabled())


def token_losses(hidden: Tensor, head: nn.Module, *, targets: Tensor, vocab_size: int) -> Tensor:
    """Cross-entropy in nats of each target, 0 if it is -100, (...); the arguments are those of `summed_loss`.

    The gradient is computed in the backward pass, from logits that are computed again.
    """
    if not _is_linear(head):
        return in_chunks(hidden, head, _cross_entropy, targets=targets, vocab_size=vocab_size)
    some_hidden, some_targets = _that_count(hidden.flatten(0, -2), targets.flatten())
    losses = _TokenLosses.apply(some_hidden, head.weight, some_targets, _dtype(hidden))
    if len(losses) == targets.numel():
        return losses.view_as(targets)
    return torch.zeros_like(targets, dtype=losses.dtype).masked_scatter(targets != IGNORED, losses)


def in_chunks(hidden: Tensor, head: nn.Module, measure: Measure, *, targets: Tensor, vocab_size: int) -> Tensor:
    """What `measure` makes of logits (n, V) and targets (n,), one number for each target, (...); for any head.

    Several chunks compute their logits again in the backward pass, and keep none.
    """

    def measured(hidden: Tensor, targets: Tensor) -> Tensor:
        return measure(head(hidden), targets)

    n = _tokens_at_once(targets.numel(), vocab_size)
    chunks = list(zip(hidden.flatten(0, -2).split(n), targets.flatten().split(n), strict=True))
    if len(chunks) == 1:
        return measured(*chunks[0]).view_as(targets)
    return torch.cat([checkpoint(measured, *chunk, use_reentrant=False) for chunk in chunks]).view_as(targets)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, with_gradient: bool) -> Tensor:
        wants = ctx.needs_input_grad[:2] if with_gradient else (False, False)
        factors = torch.ones_like(targets) if any(wants) else None
        losses, *gradients = _compute(hidden, weight, targets, _dtype(hidden), wants, factors)
        ctx.save_for_backward(*gradients)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = (None if saved is None else saved.mul_(grad_output) for saved in ctx.saved_tensors)
        return hidden, weight, None, None


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.dtype = dtype
        return _compute(hidden, weight, targets, dtype, (False, False), None)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        gradients = _compute(hidden, weight, targets, ctx.dtype, ctx.needs_input_grad[:2], grad_output)[1:]
        return *gradients, None, None


def _compute(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    wants: tuple[bool, bool],
    factors: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses of tokens (N,), and gradients of sum(factors * losses).

    Args:
        hidden, weight, targets: (N, C), (V, C), (N,).
        dtype: of the matrix products.
        wants: whether the gradient of the hidden states (N, C) and that of the weight (V, C) are wanted.
        factors: (N,); None if no gradient is wanted.
    """
    n, exact = _tokens_at_once(len(hidden), len(weight)), _exact(dtype)
    losses = torch.empty_like(targets, dtype=exact)
    grad_hidden = torch.empty_like(hidden) if wants[0] else None
    grad_weight = torch.empty_like(weight, dtype=exact) if wants[1] else None
    rounded = weight.to(dtype)
    for start in range(0, len(hidden), n):
        chunk = slice(start, start + n)
        x = hidden[chunk].to(dtype)
        logits = x @ rounded.T  # (n, V)
        losses[chunk] = _losses(logits, targets[chunk], None if factors is None else factors[chunk])
        if grad_hidden is not None:
            grad_hidden[chunk] = logits @ rounded
        if grad_weight is not None:
            _add_product(grad_weight, logits, x, is_first=start == 0)
    return losses, grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)


def _losses(logits: Tensor, targets: Tensor, factors: Tensor | None) -> Tensor:
    """Losses of a chunk (n,) from its logits (n, V); with factors (n,), the logits become their gradient."""
    exact, counts = _exact(logits.dtype), targets != IGNORED
    places = torch.where(counts, targets, 0)[:, None]  # (n, 1)
    losses = torch.empty_like(targets, dtype=exact)
    n = max(1, IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    if factors is not None:
        factors = (factors * counts).to(exact)[:, None]  # (n, 1)
    for start in range(0, len(logits), n):
        rows = slice(start, start + n)
        log_p = logits[rows].log_softmax(dim=-1, dtype=exact)
        losses[rows] = -log_p.gather(1, places[rows])[:, 0]
        if factors is not None:
            gradient = log_p.exp_()
            gradient.scatter_add_(1, places[rows], -torch.ones_like(places[rows], dtype=exact))
            logits[rows] = gradient.mul_(factors[rows])
    return losses.masked_fill_(~counts, 0)


def _add_product(total: Tensor, gradient: Tensor, x: Tensor, *, is_first: bool) -> None:
    """Adds gradient^T x to the total, (V, C); the first time it becomes the total."""
    if total.dtype == x.dtype:
        torch.addmm(total, gradient.T, x, beta=0 if is_first else 1, out=total)
        return
    n = max(1, IN_CACHE // total.shape[1]) if total.device.type == "cpu" else len(total)
    for its, columns in zip(total.split(n), gradient.split(n, dim=1), strict=True):  # two types need a copy
        its.copy_(columns.T @ x) if is_first else its.add_(columns.T @ x)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.to(_exact(logits.dtype)), targets, ignore_index=IGNORED, reduction="none")


def _that_count(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """On a CPU, the tokens whose targets count, if there are any; a GPU would have to wait for their number."""
    counts = targets != IGNORED
    if targets.device.type != "cpu" or counts.all() or not counts.any():
        return hidden, targets
    return hidden[counts], targets[counts]


def _is_linear(head: nn.Module) -> bool:
    """Whether the head is a product with its weight, and nothing else that calling it would do."""
    return type(head) is nn.Linear and head.bias is None and not has_hooks(head)


def _dtype(hidden: Tensor) -> torch.dtype:
    """What a matrix product of hidden states is computed in."""
    kind = hidden.device.type
    is_cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # not on the meta device
    return torch.get_autocast_dtype(kind) if is_cast else hidden.dtype


def _exact(dtype: torch.dtype) -> torch.dtype:
    """float32 instead of half precision, which would round the loss of a large vocabulary."""
    return torch.promote_types(dtype, torch.float32)


def _tokens_at_once(n_tokens: int, vocab_size: int) -> int:
    """Tokens of a chunk, such that all chunks are about as long."""
    n_chunks = -(-n_tokens * vocab_size // MOST_LOGITS)
    return -(-n_tokens // max(1, n_chunks))
