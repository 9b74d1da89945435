"""Text that the model writes at each validation."""

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from gptlab.errors import UserError
from gptlab.generation.sampling import make_sampler
from gptlab.generation.stream import continue_texts
from gptlab.training.module import TrainingModule
from gptlab.training.ranks import takes_part

log = logging.getLogger("gptlab")


class Samples(L.Callback):
    """Continues a prompt and shows the text in the terminal and in TensorBoard.

    Args:
        prompt: the text to continue, or to answer if the data have a template; None takes one of the validation data.
        max_new_tokens, temperature, top_k: as in generation.
        seed: the same at every validation, so that texts differ by what was learned.
    """

    def __init__(
        self, *, prompt: str | None, max_new_tokens: int, temperature: float, top_k: int | None, seed: int
    ) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
        self.prompt, self.max_new_tokens, self.seed = prompt, max_new_tokens, seed
        self._make_sampler = partial(make_sampler, temperature=temperature, top_k=top_k, top_p=None)
        self._make_sampler(generator=None)  # raises on bad values
        self._prompt_ids: list[int] = []

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._prompt_ids = prompt_ids(self.prompt, module, key="callbacks.samples.prompt")

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """The first rank generates, and all of a sharded model, which compute together."""
        if not takes_part(trainer):
            return
        if not math.isfinite(module.metrics["val/loss"]):
            return  # nan logits cannot be sampled from
        tokenizer, ids = module.data.tokenizer, self._prompt_ids
        sampler = self._make_sampler(generator=torch.Generator(module.device).manual_seed(self.seed))
        how: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "sampler": sampler, "stops": ()}
        with trainer.precision_plugin.forward_context(), uncompiled(module):
            pieces = [text for _, text in continue_texts(module.model, tokenizer, [ids], **how)]
        if not trainer.is_global_zero:
            return
        asked = module.data.prompt if self.prompt is None else self.prompt
        before = tokenizer.decode(ids) if module.data.template is None else f"{asked}\n=> "
        lines = (before + "".join(pieces)).splitlines()
        log.info("sample │ %s", "\n       │ ".join(line for line in lines if line.strip()))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):  # the indent keeps it from reading the text as markdown
                logger.experiment.add_text("sample", "\n".join(f"    {line}" for line in lines), trainer.global_step)


def uncompiled(module: TrainingModule) -> AbstractContextManager[Any]:
    """Blocks with a KV cache are others to the compiler, and one text is not worth another compilation."""
    return torch.compiler.set_stance("force_eager") if module.config.get("compile") else nullcontext()


def prompt_ids(prompt: str | None, module: TrainingModule, *, key: str) -> list[int]:
    """Ids of a prompt, in the data's template if there is one; None takes the data's own prompt.

    `key` is the prompt's place in the configuration.

    Raises:
        UserError: if it is empty, or the vocabulary lacks a part of it.
    """
    text = module.data.prompt if prompt is None else prompt
    try:
        template = module.data.template
        ids = module.data.tokenizer.encode(text if template is None or not text else template.turn(text, is_first=True))
    except ValueError as error:
        raise UserError(f"{key}={text}: {error}") from None
    if not ids:
        raise UserError(f"{key} is empty: null takes a few words of the validation data")
    return ids
