"""The loop: prompt in, one new token of every sequence out, again and again."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gptlab.generation.sampling import Sampler
from gptlab.model import GPT, KVCache


def visible(tokens: list[int], context_length: int) -> list[int]:
    """The part of a prompt that the model sees: all of it, or the end where it is too long."""
    return tokens[-context_length:]


@torch.inference_mode()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    cached: bool = True,
) -> Iterator[list[int]]:
    """Continue each prompt by one token at a time.

    When a sequence has filled the context, it goes on from the last half of it: learned positions cannot slide, so the
    tokens that stay get new ones, and with them new keys and values. The rule looks at each sequence by itself; with
    and without a cache, alone or in a batch, a sequence sees the same tokens at the same positions.

    Args:
        model: puts out logits over the next token; it is used as it stands (call `model.eval()` first).
        prompts: B sequences of ids, of any lengths from 1; of a longer one than the context, the end counts.
        max_new_tokens: how many steps.
        sampler: logits (B, V) -> ids (B,).
        cached: keep keys and values of earlier tokens; False computes everything anew at every step.

    Yields:
        B ids a step.

    Raises:
        ValueError: where a prompt is empty.
    """
    if not all(len(prompt) > 0 for prompt in prompts):
        raise ValueError("a prompt without tokens cannot be continued")
    capacity = model.context_length
    device = model.head.weight.device
    contexts = [visible(list(prompt), capacity) for prompt in prompts]
    cache: KVCache | None = None

    for _ in range(max_new_tokens):
        if cache is None:
            inputs, padding = _pad_left(contexts, device)  # (B, longest)
            cache = model.new_cache(padding)
        else:
            inputs = torch.tensor([[context[-1]] for context in contexts], device=device)  # (B, 1)
        hidden = model.trunk(inputs, cache)  # (B, T, C)
        logits = model.head(hidden[:, -1])  # (B, V): the last position alone
        new_tokens: list[int] = sampler(logits.float()).tolist()
        yield new_tokens

        for context, token in zip(contexts, new_tokens, strict=True):
            context.append(token)
        overfull = [context for context in contexts if len(context) > capacity]
        for context in overfull:
            del context[: -max(1, capacity // 2)]
        if overfull or not cached:
            cache = None


def _pad_left(contexts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """One matrix (B, longest) of all contexts, filled with 0 on the left, and how much of each row is filler."""
    longest = max(map(len, contexts))
    padding = [longest - len(context) for context in contexts]
    rows = [[0] * fill + context for fill, context in zip(padding, contexts, strict=True)]
    return torch.tensor(rows, device=device), torch.tensor(padding, device=device) if any(padding) else None
