"""What a model does with one text, in numbers. L layers, H heads, T tokens, V vocabulary, K listed next tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.model import LanguageModel

MAX_TOKENS = 128
"""Longer maps cannot be read, and their number of weights grows with the square of the length."""


@dataclass(frozen=True)
class Inspection:
    """Results on the CPU; losses in nats, ranks from 1.

    Attributes:
        ids: the text, (T,).
        causal: whether each position sees only itself and earlier ones.
        attention: how much each token attends to each other token, rows sum to 1, (L, H, T, T); None if there are no
            weights to show.
        no_attention: why `attention` is None; empty otherwise.
        losses: of the tokens after the first, (T - 1,).
        ranks: of the same tokens among the vocabulary, 1 for the most likely, (T - 1,).
        next_ids: the K most likely tokens after each token, most likely first, (T, K).
        next_probabilities: their probabilities, (T, K).
        layer_ids: the most likely next token if the model ended after the embeddings (row 0) or after each layer,
            (L + 1, T); (1, T), the final prediction alone, if the model does not show its layers.
        layer_probabilities: their probabilities, same shape.
        layer_losses: losses if the model ended there, (L + 1, T - 1); the last row is `losses`.
    """

    ids: Tensor
    causal: bool
    attention: Tensor | None
    no_attention: str
    losses: Tensor
    ranks: Tensor
    next_ids: Tensor
    next_probabilities: Tensor
    layer_ids: Tensor
    layer_probabilities: Tensor
    layer_losses: Tensor

    @property
    def has_layers(self) -> bool:
        """Whether there are predictions of single layers."""
        return len(self.layer_ids) > 1


@torch.no_grad()
def analyze(model: LanguageModel, ids: list[int], *, top_k: int) -> Inspection:
    """Run a model once over a text and keep what it computed on the way.

    The prediction of each layer is the logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"): the final
    norm and the head, applied to the residual stream after that layer.

    Args:
        model: on any device; it is not changed.
        ids: T tokens of one text, at least one.
        top_k: K, the number of next tokens that are listed, at most V.

    Raises:
        ValueError: if the tokens do not fit into the context.
    """
    tokens = torch.tensor([ids], device=model.device)  # (1, T)
    no_attention = ""
    try:
        captured = model.capture(tokens)
    except ValueError as error:  # this attention has no weights to show
        captured, no_attention = LanguageModel.capture(model, tokens), str(error)
    if captured.attention is None:
        no_attention = no_attention or f"{type(model).__name__} shows no attention weights"
    targets = tokens[0, 1:]  # (T - 1,)

    layers = []
    for hidden in captured.hidden:
        log_probabilities = model.head(hidden).float().log_softmax(dim=-1)  # (T, V); the last are the model's own
        of_targets = log_probabilities[:-1].gather(1, targets[:, None])  # (T - 1, 1)
        best = log_probabilities.max(dim=-1)
        layers.append((best.indices, best.values.exp(), -of_targets[:, 0]))
    top = log_probabilities.topk(min(top_k, log_probabilities.shape[1]))  # (T, K)
    layer_ids, layer_probabilities, layer_losses = (torch.stack(column).cpu() for column in zip(*layers, strict=True))
    return Inspection(
        ids=tokens[0].cpu(),
        causal=model.causal,
        attention=captured.attention,
        no_attention=no_attention,
        losses=layer_losses[-1],
        ranks=1 + (log_probabilities[:-1] > of_targets).sum(dim=1).cpu(),
        next_ids=top.indices.cpu(),
        next_probabilities=top.values.exp().cpu(),
        layer_ids=layer_ids,
        layer_probabilities=layer_probabilities,
        layer_losses=layer_losses,
    )
