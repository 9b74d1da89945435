"""What `load` returns."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gptlab import build
from gptlab.errors import UserError
from gptlab.generation.sampling import make_sampler
from gptlab.generation.stream import continue_texts
from gptlab.model import LanguageModel
from gptlab.model.base import tied_parameters
from gptlab.model.classifier import GPTClassifier
from gptlab.model.lora import LoRA
from gptlab.tokenizer import Tokenizer


@dataclass(frozen=True)
class Adapter:
    """What was trained beside a base's weights: its tensors by their names in the unmerged model."""

    weights: dict[str, Tensor]
    base: str  # as `load` takes it
    base_fingerprint: str | None  # of the base's weights; None if it is not known


@dataclass(frozen=True)
class Loaded:
    """A model and what belongs to it.

    Attributes:
        model: in evaluation mode, on the CPU.
        tokenizer: the one that it was trained with; None if a Hugging Face directory has none.
        config: the resolved configuration of the run, or as much of one as a Hugging Face directory tells.
        path: the checkpoint file or the directory that it came from.
        name: what the user asked for.
        training: steps, tokens, seconds, val_loss and other metrics of a run; empty if they are not known.
        prompt: a few words of the text that it was trained on; empty if they are not known.
        adapter: the adapter that is merged into `model`; None without one.
        template: how a conversation is written for it (`gptlab.data.template`); None for a model that continues texts.
    """

    model: LanguageModel
    tokenizer: Tokenizer | None
    config: build.Config
    path: Path
    name: str
    training: dict[str, Any]
    prompt: str = ""
    adapter: Adapter | None = None
    template: Any = None

    def needed_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises UserError if there is none."""
        if self.tokenizer is None:
            raise UserError(f"{self.name} has no tokenizer that can be read (no tokenizer.json in {self.path})")
        return self.tokenizer

    def prompt_ids(self, prompt: str, *, key: str = "prompt") -> list[int]:
        """The ids of a prompt: of an empty one, the end-of-text token. UserError, naming `key`, if there are none."""
        tokenizer = self.needed_tokenizer()
        try:
            ids = tokenizer.encode(prompt)
        except ValueError as error:
            raise UserError(f"{key}={prompt!r}: {error}") from None
        if not ids and tokenizer.eot is None:
            raise UserError(f"the {key} is empty, and this tokenizer has no end-of-text token: {key}=<text>")
        return ids or [tokenizer.eot]  # type: ignore[list-item]

    def example_prompt(self) -> str:
        """A text that the tokenizer can encode, for commands to paste; empty if none is found."""
        tokenizer = self.needed_tokenizer()
        samples = (self.config.get("callbacks") or {}).get("samples") or {}
        for prompt in (self.prompt, samples.get("prompt"), "Once upon a time", "Once"):
            with suppress(ValueError):
                if prompt and tokenizer.encode(prompt):
                    return prompt
        words = (tokenizer.decode([id_]) for id_ in range(tokenizer.vocab_size))
        return next((word for word in words if word.isalnum()), "")

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        greedy: bool = False,
        seed: int = 1337,
        stop: str | Sequence[str] = (),
    ) -> str:
        """The continuation of a prompt, without the prompt. The settings are those of `gptlab generate`.

        Raises ValueError if a setting is out of range, UserError if the tokenizer cannot encode the prompt.
        """
        if not self.model.generates:
            raise UserError(f"{self.name} is a classifier, and writes no text")
        sampler = make_sampler(
            temperature=0.0 if greedy else temperature,
            top_k=top_k,
            top_p=top_p,
            generator=torch.Generator(self.model.device).manual_seed(seed),
        )
        pieces = continue_texts(
            self.model,
            self.needed_tokenizer(),
            [self.prompt_ids(prompt)],
            max_new_tokens=max_new_tokens,
            sampler=sampler,
            stops=[stop] if isinstance(stop, str) else stop,
        )
        return "".join(new_text for _, new_text in pieces)

    @torch.inference_mode()
    def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """The probability of each label, for each text. A text longer than the context loses its end.

        Raises UserError if the model is no classifier, or the tokenizer cannot encode a text.
        """
        if not isinstance(self.model, GPTClassifier):
            raise UserError(f'{self.name} is no classifier: gptlab generate checkpoint={self.name} prompt="..."')
        device, n = self.model.device, self.model.context_length
        rows = [torch.tensor(self.prompt_ids(text, key="text")[:n], device=device) for text in texts]
        lengths = torch.tensor([*map(len, rows)], device=device)
        logits = self.model(pad_sequence(rows, batch_first=True), lengths=lengths)  # (B, n_labels)
        return [dict(zip(self.model.labels, row, strict=True)) for row in logits.float().softmax(dim=-1).tolist()]


def restored(
    config: build.Config, vocab_size: int, weights: dict[str, Tensor], *, adapter: LoRA | None = None
) -> LanguageModel:
    """The model that a configuration describes, with these tensors themselves as its weights, in float32.

    Of names that share a tensor, the first is enough. Raises RuntimeError if names or shapes differ.
    """
    model = build.meta_model(config, vocab_size)
    if {name for name, _ in model.named_buffers()} - model.state_dict().keys():  # computed by the constructor
        model = build.model(config, vocab_size)
    if adapter is not None:
        adapter.apply(model)
    tied = tied_parameters(model)
    weights = {name: weight.float() if weight.is_floating_point() else weight for name, weight in weights.items()}
    shared = {name: weights[first] for name, first in tied.items() if first in weights}
    model.load_state_dict({**weights, **shared}, assign=True)
    for name, first in tied.items():  # assigning has made two parameters of one
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, model.get_parameter(first))
    return model.eval()
