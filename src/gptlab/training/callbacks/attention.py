"""Attention maps in TensorBoard: one picture of every layer and head at each validation."""

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from gptlab.inspection.analyze import MAX_TOKENS
from gptlab.inspection.drawing import attention_grid, pixels
from gptlab.inspection.tokens import visible
from gptlab.training.callbacks.samples import prompt_ids, uncompiled
from gptlab.training.ranks import takes_part

log = logging.getLogger("gptlab")


class AttentionMaps(L.Callback):
    """Draws the attention over one prompt at each validation. Training is not changed by it.

    A model without attention weights to show costs one warning.

    Args:
        prompt: the text; None takes a few words of the validation data.
    """

    def __init__(self, *, prompt: str | None) -> None:
        self.prompt = prompt
        self._ids: list[int] = []
        self._has_attention = True

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Cuts a prompt to what can be shown. Raises UserError if it has no tokens."""
        ids = prompt_ids(self.prompt, module, key="callbacks.attention.prompt")
        self._ids = ids[: min(MAX_TOKENS, module.model.context_length)]

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """The first rank draws. All of a sharded model compute together."""
        if not takes_part(trainer):
            return
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not boards or not self._has_attention:
            return
        why = f"{type(module.model).__name__} shows no attention weights"
        try:
            with trainer.precision_plugin.forward_context(), uncompiled(module):
                maps = module.model.capture(torch.tensor([self._ids], device=module.device)).attention
        except ValueError as error:
            maps, why = None, str(error)
        if maps is None:
            log.warning("callbacks.attention shows no attention: %s", why)
            self._has_attention = False
        elif trainer.is_global_zero and maps.isfinite().all():
            title = visible(module.data.tokenizer.decode(self._ids))
            picture = pixels(attention_grid(maps.numpy(), title, causal=module.model.causal))
            for board in boards:
                board.experiment.add_image("attention", picture, trainer.global_step, dataformats="HWC")
