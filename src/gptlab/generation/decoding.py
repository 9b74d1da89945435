"""The loop: prompt in, one new token of every sequence out, again and again."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from gptlab.generation.sampling import Sampler
from gptlab.model import KVCache, LanguageModel


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler,
) -> Iterator[list[int]]:
    """Continue each prompt by one token at a time: yields B ids a step, `max_new_tokens` times.

    Args:
        model: used as it is (call `model.eval()` first).
        prompts: B sequences of ids, of any lengths from 1 (ValueError); of one longer than the context, the end counts.
        sampler: logits (B, V) -> ids (B,).
    """
    longest = max((len(prompt) for prompt in prompts), default=0)
    decoder = Decoder(model, prompts, capacity=min(longest + max_new_tokens, model.context_length))
    for _ in range(max_new_tokens):
        yield decoder.step(sampler)


class Decoder:
    """B sequences that grow, and the keys and values of what the model has seen of them.

    The first step computes the whole prompts in one pass, every further one its new tokens alone; a model without a
    cache computes whole sequences at every step. When a sequence has filled the context, it continues from the last
    half of it: learned positions cannot slide, so the tokens that stay get new ones, and the batch new keys and values.
    The rule looks at each sequence by itself; with and without a cache, alone or in a batch, a sequence sees the same
    tokens at the same positions.

    `capacity` is how many tokens the longest sequence will have at most, None for the whole context. The other
    arguments are those of `generate`.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], *, capacity: int | None = None) -> None:
        if not all(len(prompt) > 0 for prompt in prompts):
            raise ValueError("a prompt without tokens cannot be continued")
        self.contexts = [list(prompt)[-model.context_length :] for prompt in prompts]
        self._model = model
        self._capacity = capacity
        self._cache: KVCache | None = None
        self._n_pending = 0  # tokens at the end of each sequence that the cache lacks

    @torch.inference_mode()
    def step(self, sampler: Sampler) -> list[int]:
        """Let every sequence grow by one token; returns these B tokens."""
        self._make_room()
        tokens: list[int] = sampler(self._logits().float()).tolist()
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
        """Remove the last tokens of each sequence; some must stay."""
        for context in self.contexts:
            del context[len(context) - n_last :]
        n_pending = self._n_pending - n_last
        if self._cache is not None:  # the last token that stays is fed again: its logits were not kept
            self._cache.length -= max(0, 1 - n_pending)
        self._n_pending = max(1, n_pending)

    def _logits(self) -> Tensor:
        """Logits of the token that follows each sequence, (B, V)."""
        device, is_prompt = self._model.device, self._cache is None
        if is_prompt:
            inputs, padding = _pad_left(self.contexts, device)  # (B, longest)
            # attention of one query: on a CPU, fp32 takes a third of bfloat16's time
            in_bfloat16_on_cpu = self._model.dtype == torch.bfloat16 and device.type == "cpu"
            dtype = torch.float32 if in_bfloat16_on_cpu else None
            self._cache = self._model.new_cache(padding, capacity=self._capacity, dtype=dtype)
        else:
            newest = [context[-self._n_pending :] for context in self.contexts]
            inputs = torch.tensor(newest, device=device)  # (B, pending)
        with _not_compiled() if is_prompt or self._n_pending > 1 else nullcontext():
            if self._cache is None:
                return self._recomputed()
            return self._model(inputs, cache=self._cache, reduce=last_logits)

    def _recomputed(self) -> Tensor:
        """The same without a cache, (B, V): sequences of one length share a pass, so that none needs padding."""
        logits: dict[int, Tensor] = {}
        for length in {len(context) for context in self.contexts}:
            rows = [row for row, context in enumerate(self.contexts) if len(context) == length]
            inputs = torch.tensor([self.contexts[row] for row in rows], device=self._model.device)  # (rows, T)
            logits.update(zip(rows, self._model(inputs, reduce=last_logits), strict=True))
        return torch.stack([logits[row] for row in range(len(self.contexts))])

    def _make_room(self) -> None:
        """Cut sequences that have outgrown the context; keys and values are computed anew."""
        capacity = self._model.context_length
        kept = max(capacity // 2, min(self._n_pending, capacity))  # new tokens stay, however many they are
        for context in self.contexts:
            if len(context) > capacity:
                del context[:-kept]
                self._cache = None


def last_logits(hidden: Tensor, head: nn.Module) -> Tensor:
    """Logits of the last position alone: (B, T, C) -> (B, V)."""
    return head(hidden[:, -1])


def _not_compiled() -> AbstractContextManager[object]:
    """Within it, torch's compiler is off: it would compile each length of a prompt anew."""
    if "torch._dynamo" not in sys.modules:  # importing the compiler takes a second
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def _pad_left(contexts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """One matrix (B, longest) of all contexts, filled with 0 on the left, and how much of each row is padding."""
    longest = max(map(len, contexts))
    padding = [longest - len(context) for context in contexts]
    rows = [[0] * fill + context for fill, context in zip(padding, contexts, strict=True)]
    return torch.tensor(rows, device=device), torch.tensor(padding, device=device) if any(padding) else None
