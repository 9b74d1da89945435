"""What loading gives, wherever it comes from."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab import build
from gptlab.errors import UserError
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model with what belongs to it.

    Attributes:
        model: in evaluation mode, on the CPU.
        tokenizer: the one that it was trained with; None where a Hugging Face directory has none.
        config: plain data: the resolved configuration of its run, or what a Hugging Face directory says of one.
        path: the checkpoint file or the directory that it came from.
        name: what was asked for.
        training: what its checkpoint says of its training (steps, tokens, seconds, val_loss, val_perplexity,
            val_bits_per_byte); empty where nothing is known.
    """

    model: GPT
    tokenizer: Tokenizer | None
    config: build.Config
    path: Path
    name: str
    training: dict[str, Any]

    def needed_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises UserError where there is none."""
        if self.tokenizer is None:
            raise UserError(f"{self.name} has no tokenizer that can be read (no tokenizer.json in {self.path})")
        return self.tokenizer

    def example_prompt(self) -> str:
        """A text that the tokenizer knows, for commands to paste; empty where none can be thought of."""
        samples = (self.config.get("callbacks") or {}).get("samples") or {}
        for prompt in (samples.get("prompt"), "Once upon a time", "Once"):
            with suppress(ValueError):
                if prompt and self.needed_tokenizer().encode(prompt):
                    return prompt
        words = (self.needed_tokenizer().decode([id_]) for id_ in range(self.model.head.out_features))
        return next((word for word in words if word.isalnum()), "")


def filled(model: GPT, weights: dict[str, Tensor]) -> GPT:
    """A meta model with these tensors as its weights, not copies of them where they are float32; a tied head stays so.

    Raises:
        RuntimeError: where names or shapes differ.
    """
    tied = model.is_tied
    weights = {name: weight.to(torch.float32) for name, weight in weights.items()}  # a run may have kept bfloat16
    if tied:
        weights = {**weights, "head.weight": weights["trunk.token_embedding.weight"]}
    model.load_state_dict(weights, assign=True)
    if tied:  # assigning has made two of one
        model.head.weight = model.trunk.token_embedding.weight
    return model
