"""What the model looks at, at each validation: one picture of every layer and head."""

import logging
import math

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from gptlab.errors import UserError
from gptlab.inspection.drawing import pixels
from gptlab.inspection.look import MAX_TOKENS, attention_maps
from gptlab.inspection.maps import attention_grid
from gptlab.inspection.tokens import visible
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer
from gptlab.training.callbacks.samples import encoded_prompt, first_words
from gptlab.training.loggers.tensorboard import TensorBoard
from gptlab.training.module import TrainingModule

log = logging.getLogger("gptlab")

KEY = "callbacks.attention.prompt"
TAG = "attention"


class AttentionMaps(L.Callback):
    """Draws the attention over a prompt, the same at each validation, for TensorBoard.

    It looks through a twin that shares the model's parameters, so nothing of the model or of its training changes.

    Args:
        prompt: the text; None takes the first words of a sentence of the validation text.
    """

    def __init__(self, *, prompt: str | None) -> None:
        self.prompt = prompt

    def rehearse(self, model: GPT, tokenizer: Tokenizer) -> None:
        """Try all that can be known before training.

        Args:
            model: of the same kind and context, with at least MAX_TOKENS tokens; a layer is enough.
            tokenizer: of the prompt.

        Raises:
            UserError: where the prompt has no tokens or too many, or where the attention has no weights to show.
        """
        ids = encoded_prompt(self.prompt, tokenizer, key=KEY) or [0]
        most = min(MAX_TOKENS, model.context_length)
        if len(ids) > most:
            raise UserError(f"{KEY} has {len(ids):,} tokens: at most {most:,} can be shown of this model")
        try:
            attention_maps(model, list(range(most)))
        except ValueError as error:
            raise UserError(f"callbacks.attention: {error}") from None

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]
        if not boards or not math.isfinite(module.metrics["val/loss"]):
            return  # nowhere to show it, or nothing to be seen in weights that are nan
        ids = encoded_prompt(self.prompt, module.tokenizer, key=KEY) or first_words(
            trainer.datamodule.val.tokens,  # type: ignore[attr-defined]
            module.tokenizer,
        )
        assert isinstance(module.model, GPT)
        try:
            with trainer.precision_plugin.forward_context():
                maps = attention_maps(module.model, ids[: module.model.context_length])
        except ValueError as error:  # in few bits, rounding can be coarse: a picture must not cost the run
            log.warning("no attention picture: %s", error)
            return
        picture = pixels(attention_grid(maps, visible(module.tokenizer.decode(ids))))
        for board in boards:
            board.log_image(TAG, picture, trainer.global_step)
