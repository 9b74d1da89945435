"""The loop: prompt in, one new token of every sequence out, again and again."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gptlab.generation.sampling import Sampler
from gptlab.model import GPT, KVCache


def visible(tokens: list[int], context_length: int) -> list[int]:
    """The part of a prompt that the model sees: all of it, or the end where it is too long."""
    return tokens[-context_length:]


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    cached: bool = True,
) -> Iterator[list[int]]:
    """Continue each prompt by one token at a time.

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
    longest = max((len(prompt) for prompt in prompts), default=0)
    decoder = Decoder(model, prompts, capacity=min(longest + max_new_tokens, model.context_length))
    for _ in range(max_new_tokens):
        yield decoder.step(sampler)
        if not cached:
            decoder.forget()


class Decoder:
    """B sequences that grow, and the keys and values of what the model has seen of them.

    The first step computes the whole prompts in one pass, every further one its new tokens alone. When a sequence has
    filled the context, it goes on from the last half of it: learned positions cannot slide, so the tokens that stay get
    new ones, and with them new keys and values. The rule looks at each sequence by itself; with and without a cache,
    alone or in a batch, a sequence sees the same tokens at the same positions.

    Args:
        model: in evaluation mode.
        prompts: B sequences of ids, of any lengths from 1.
        capacity: tokens that the longest sequence will have at most; None for the whole context.

    Raises:
        ValueError: where a prompt is empty.
    """

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], *, capacity: int | None = None) -> None:
        if not all(len(prompt) > 0 for prompt in prompts):
            raise ValueError("a prompt without tokens cannot be continued")
        self.contexts = [visible(list(prompt), model.context_length) for prompt in prompts]
        self._model = model
        self._capacity = capacity
        self._cache: KVCache | None = None
        self._n_pending = 0  # tokens at the end of each sequence that the cache lacks

    @torch.inference_mode()
    def step(self, sampler: Sampler) -> list[int]:
        """Let every sequence grow by one token; returns these B tokens."""
        self._make_room()
        if self._cache is None:
            inputs, padding = _pad_left(self.contexts, self._model.device)  # (B, longest)
            self._cache = self._new_cache(padding)
        else:
            newest = [context[-self._n_pending :] for context in self.contexts]
            inputs = torch.tensor(newest, device=self._model.device)  # (B, pending)
        hidden = self._see(inputs, self._cache)  # (B, T, C)
        logits = self._model.head(hidden[:, -1])  # (B, V): the last position alone
        tokens: list[int] = sampler(logits.float()).tolist()
        for context, token in zip(self.contexts, tokens, strict=True):
            context.append(token)
        self._n_pending = 1
        return tokens

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Append to each sequence what did not come from the model: B sequences of one length."""
        for context, new in zip(self.contexts, tokens, strict=True):
            context.extend(new)
        self._n_pending += len(tokens[0])

    def retract(self, n_last: int) -> None:
        """Take the last tokens of each sequence away again; some must stay."""
        for context in self.contexts:
            del context[len(context) - n_last :]
        n_pending = self._n_pending - n_last
        if self._cache is not None:  # the last token that stays is fed again: nobody kept its logits
            self._cache.retract(max(0, 1 - n_pending))
        self._n_pending = max(1, n_pending)

    def forget(self) -> None:
        """Give keys and values up; the next step computes them anew."""
        self._cache = None

    def _see(self, inputs: Tensor, cache: KVCache) -> Tensor:
        """Hidden states of new tokens, (B, T) -> (B, T, C)."""
        trunk = self._model.trunk
        if inputs.shape[1] == 1 and cache.length > 0:
            return trunk(inputs, cache=cache)
        return trunk.forward(
            inputs, cache=cache
        )  # not compiled, where the trunk is: each length would be compiled anew

    def _new_cache(self, padding: Tensor | None) -> KVCache:
        # attention of one query: on a CPU, fp32 takes a third of bfloat16's time
        in_bfloat16 = self._model.trunk.token_embedding.weight.dtype == torch.bfloat16
        dtype = torch.float32 if in_bfloat16 and self._model.device.type == "cpu" else None
        return self._model.new_cache(padding, capacity=self._capacity, dtype=dtype)

    def _make_room(self) -> None:
        """Cut sequences that have outgrown the context; in a batch, the others' keys and values stay."""
        capacity = self._model.context_length
        overfull = [row for row, context in enumerate(self.contexts) if len(context) > capacity]
        if not overfull:
            return
        kept = max(capacity // 2, min(self._n_pending, capacity))  # new tokens stay, however many they are
        for row in overfull:
            del self.contexts[row][:-kept]
        if len(overfull) == len(self.contexts):
            self._cache = None
        if self._cache is None:
            return
        fresh = self._new_cache(None)
        seen = torch.tensor([self.contexts[row][: kept - self._n_pending] for row in overfull])
        if seen.numel() > 0:
            self._see(seen.to(self._model.device), fresh)
        self._cache.restart(torch.tensor(overfull, device=self._model.device), fresh)


def _pad_left(contexts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """One matrix (B, longest) of all contexts, filled with 0 on the left, and how much of each row is filler."""
    longest = max(map(len, contexts))
    padding = [longest - len(context) for context in contexts]
    rows = [[0] * fill + context for fill, context in zip(padding, contexts, strict=True)]
    return torch.tensor(rows, device=device), torch.tensor(padding, device=device) if any(padding) else None
