"""What every language model promises: the rest of gptlab uses a model through this class alone.

A model of your own subclasses it and sets `trunk`, `head`, `context_length` and `vocab_size`. Abilities that a model
may lack have a default here: a KV cache, attention weights to show, learned positions to cut.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gptlab.model.cache import KVCache

Tune = Literal["all", "last_block", "head"]
Reduce = Callable[[Tensor, nn.Module], Any]
"""`reduce(hidden, head)`: hidden states (B, T, C) and the head, to whatever the caller wants instead of all logits."""


@dataclass(frozen=True)
class Captured:
    """What a forward pass over one sequence computed on its way. L layers, H heads.

    Attributes:
        hidden: the final hidden states if the model ended after the embeddings (row 0) or after so many layers, each
            ready for the head, (L + 1, T, C).
        attention: what each token takes from each other token, rows sum to 1, (L, H, T, T) float32 on the CPU; None
            if the model has no attention weights to show.
    """

    hidden: Tensor
    attention: Tensor | None


class LanguageModel(nn.Module):
    """Token ids in, logits over the next token out.

    Attributes:
        trunk: tokens (B, T) to hidden states (B, T, C). It takes `cache` and `documents` as keyword arguments if the
            model supports them.
        head: hidden states (..., C) to logits (..., V).
        context_length: the longest sequence, in tokens.
        vocab_size: V.
        causal: whether a position sees only itself and earlier ones. The loss of a model that is not causal is no
            language model's: each position sees the token that it is asked for.
        generates: whether it continues text. A classifier does not: its forward is `forward(tokens, *, lengths)`.
        fixed_by_weights: constructor arguments that the weights decide: a run that starts from weights takes them over.
    """

    trunk: nn.Module
    head: nn.Module
    context_length: int
    vocab_size: int
    causal: bool = True
    generates: bool = True
    fixed_by_weights: tuple[str, ...] = ()

    def forward(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        documents: Tensor | None = None,
        reduce: Reduce | None = None,
    ) -> Any:
        """Logits of the token that follows each position.

        Args:
            tokens: ids, (B, T); with a cache, only those that follow what it holds.
            cache: keys and values of earlier tokens; it advances by T.
            documents: the number of the document that each token belongs to, 0 for padding, (B, T). Tokens attend
                within their document, and positions restart with each. None if every row is one document.
            reduce: called with the hidden states (B, T, C) and the head; its result is returned instead of the logits
                (B, T, V). A loss or a sampler that needs few logits passes it and never calls trunk and head itself, so
                that compiling and sharding hooks hold.
        """
        if cache is not None and type(self).new_cache is LanguageModel.new_cache:
            raise ValueError(f"{type(self).__name__} has no cache: it computes all tokens of a text together")
        extras = {name: value for name, value in {"cache": cache, "documents": documents}.items() if value is not None}
        hidden = self.trunk(tokens, **extras)  # (B, T, C)
        return self.head(hidden) if reduce is None else reduce(hidden, self.head)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def token_vectors(self) -> Tensor | None:
        """The token embedding, (V, C); None if the model has none."""
        return None

    @property
    def sizes(self) -> dict[str, int | str]:
        """What a table of the model shows, by the names of its settings."""
        return {"context_length": self.context_length, "vocab_size": self.vocab_size}

    def new_cache(
        self, padding: Tensor | None = None, *, capacity: int | None = None, dtype: torch.dtype | None = None
    ) -> KVCache | None:
        """An empty cache for one batch; None if the model has no cache, and generation recomputes.

        Args:
            padding: padding tokens on the left of each prompt, (B,); None if there are none.
            capacity: tokens that it has room for; None for the whole context.
            dtype: what keys and values are kept in; None for what they come in.
        """
        return None

    def tune(self, what: Tune) -> None:
        """Choose what trains: all weights, the head alone, or the last block, the final norm and the head.

        Raises ValueError if the model has no such part.
        """
        if what == "last_block":
            raise ValueError(f"tune=last_block: {type(self).__name__} has no blocks")
        self.requires_grad_(what == "all")
        self.head.requires_grad_(True)

    def shorten(self, context_length: int) -> None:
        """Reduce the context in place: learned positions beyond it are cut off."""
        self.context_length = context_length

    def extend(self, context_length: int) -> None:
        """Lengthen the context in place, beyond that of training. Raises ValueError if the positions end with it."""
        if not getattr(getattr(self.trunk, "position_embedding", None), "is_endless", False):
            raise ValueError(f"the positions of {type(self).__name__} end at {self.context_length:,}")
        self.context_length = context_length

    @torch.no_grad()
    def capture(self, tokens: Tensor) -> Captured:
        """What is computed on the way over one sequence, (1, T). ValueError if attention cannot be shown truthfully."""
        return Captured(hidden=self.trunk(tokens), attention=None)  # (1, T, C)


def fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of the names, the shapes and the values of weights."""
    digest = sha256()
    for name, weight in sorted(weights, key=itemgetter(0)):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def check_model(model: object) -> None:
    """Raise ValueError, in one sentence, if an object does not keep the contract of `LanguageModel`."""
    kind = type(model).__name__
    if not isinstance(model, LanguageModel):
        raise ValueError(f"{kind} is no language model: it must subclass gptlab.model.LanguageModel")
    for name, wanted in {"trunk": nn.Module, "head": nn.Module, "context_length": int, "vocab_size": int}.items():
        if not isinstance(getattr(model, name, None), wanted):
            raise ValueError(f"{kind} must set self.{name}, of the type {wanted.__name__}")
    if next(model.parameters(), None) is None:
        raise ValueError(f"{kind} has no parameters: there is nothing to train")
    check_keywords(model, "tokens", *(("cache", "documents", "reduce") if model.generates else ("lengths",)))


def check_keywords(module: nn.Module, *names: str) -> None:
    """Raise ValueError if the forward of a module lacks an argument of its contract."""
    parameters = inspect.signature(module.forward).parameters
    missing = [name for name in names if name not in parameters]
    if missing and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ValueError(f"{type(module).__name__}.forward must take the argument {missing[0]}")


def tied_parameters(model: nn.Module) -> dict[str, str]:
    """Names that share their tensor with an earlier name: {"head.weight": "trunk.token_embedding.weight"}."""
    first: dict[int, str] = {}
    parameters = model.named_parameters(remove_duplicate=False)
    names = [(name, first.setdefault(id(parameter), name)) for name, parameter in parameters]
    return {name: earlier for name, earlier in names if name != earlier}
