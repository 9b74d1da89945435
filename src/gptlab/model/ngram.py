"""A GPT whose token vectors also hold the tokens just before: a block need not find them by attention first."""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.cache import KVCache
from gptlab.model.gpt import GPT, Trunk


class NgramTrunk(Trunk):
    """As `Trunk`; each of the `n_earlier` tokens before a token has a table of its own. Lookups cost no product."""

    def __init__(self, *, n_earlier: int, token_embedding: nn.Embedding, **parts: Any) -> None:
        super().__init__(token_embedding=token_embedding, **parts)
        vocab_size, d_model = token_embedding.weight.shape
        self.nothing = vocab_size  # the id of what is before the first token
        self.earlier = nn.ModuleList(nn.Embedding(vocab_size + 1, d_model) for _ in range(n_earlier))

    def embed(self, tokens: Tensor, cache: KVCache | None, documents: Tensor | None) -> Tensor:
        seen = tokens if cache is None else cache.append_tokens(tokens, padding_id=self.nothing)  # (B, past + T)
        vectors = super().embed(tokens, cache, documents)  # (B, T, C)
        for distance, table in enumerate(self.earlier, start=1):
            before = F.pad(seen, (distance, 0), value=self.nothing)[:, : seen.shape[1]]  # (B, past + T)
            if documents is not None:
                same = F.pad(documents, (distance, 0), value=-1)[:, : documents.shape[1]] == documents
                before = before.masked_fill(~same, self.nothing)
            vectors = vectors + table(before[:, -tokens.shape[1] :])
        return vectors


class NgramGPT(GPT):
    """A GPT with an `NgramTrunk`; `gpt` are the arguments of `GPT`.

    Small models spend their first steps on learning to look at the tokens just before (induction heads need it: Olsson
    et al. 2022, arXiv:2209.11895). Here the first block has them at once, as in the n-gram embeddings of speedruns.
    """

    fixed_by_weights = (*GPT.fixed_by_weights, "n_earlier")

    def __init__(self, *, n_earlier: int, **gpt: Any) -> None:
        if n_earlier < 1:
            raise ValueError(f"n_earlier={n_earlier} must be at least 1")
        self.make_trunk = partial(NgramTrunk, n_earlier=n_earlier)
        super().__init__(**gpt)
