"""What the model writes, at each validation: the number that no curve shows."""

import logging
import math

import lightning as L
import numpy as np
import regex
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from gptlab.errors import UserError
from gptlab.generation.decoding import generate
from gptlab.generation.sampling import make_sampler
from gptlab.tokenizer import Tokenizer
from gptlab.training.loggers.tensorboard import TensorBoard
from gptlab.training.module import TrainingModule

log = logging.getLogger("gptlab")

SENTENCE_BEGINS = regex.compile(r"(?<=[.!?]\s+)\p{Lu}\p{L}*(?: \p{L}+){1,2}")
SEARCHED_TOKENS, FALLBACK_TOKENS = 4000, 8


class Samples(L.Callback):
    """Continues a prompt and shows the text in the terminal and in TensorBoard.

    Args:
        prompt: what to continue; None takes the first words of a sentence of the validation text.
        max_new_tokens, temperature, top_k: as in generation.
        seed: the same at every validation, so that texts differ by what was learnt.
    """

    def __init__(
        self,
        *,
        prompt: str | None,
        max_new_tokens: int,
        temperature: float,
        top_k: int | None,
        seed: int,
    ) -> None:
        make_sampler(temperature=temperature, top_k=top_k, top_p=None, generator=None)  # refuses bad values now
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_k = top_k
        self.seed = seed

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        if not math.isfinite(module.metrics["val/loss"]):
            return  # nothing can be drawn from logits that are nan
        prompt = encoded_prompt(self.prompt, module.tokenizer, key="callbacks.samples.prompt") or first_words(
            trainer.datamodule.val.tokens,  # type: ignore[attr-defined]
            module.tokenizer,
        )
        sampler = make_sampler(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=None,
            generator=torch.Generator(module.device).manual_seed(self.seed),
        )
        model = module.model
        with trainer.precision_plugin.forward_context():
            steps = generate(model, [prompt], max_new_tokens=self.max_new_tokens, sampler=sampler)  # type: ignore[arg-type]
            new_tokens = [tokens[0] for tokens in steps]
        text = _until_end(module.tokenizer, prompt, new_tokens)
        log.info("sample │ %s", "\n       │ ".join(line for line in text.splitlines() if line.strip()))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_text("sample", text, trainer.global_step)


def encoded_prompt(prompt: str | None, tokenizer: Tokenizer, *, key: str) -> list[int] | None:
    """Ids of the prompt, if there is one; `key` is its place in the configuration.

    Raises:
        UserError: where it is empty, or where the vocabulary lacks a part of it.
    """
    if prompt is None:
        return None
    try:
        ids = tokenizer.encode(prompt)
    except ValueError as error:
        raise UserError(f"{key}={prompt}: {error}") from None
    if not ids:
        raise UserError(f"{key} is empty: null takes the first words of a sentence")
    return ids


def first_words(tokens: np.ndarray, tokenizer: Tokenizer) -> list[int]:
    """Ids of the words that begin a sentence of a text, or of its first words where no sentence is found.

    Args:
        tokens: (n_tokens,), of which the first thousands are looked at.
        tokenizer: that they were made with.
    """
    sentence = SENTENCE_BEGINS.search(tokenizer.decode(tokens[:SEARCHED_TOKENS].tolist()))
    try:
        return tokenizer.encode(sentence[0]) if sentence else tokens[:FALLBACK_TOKENS].tolist()
    except ValueError:  # it ends inside of a word, which a vocabulary of words may lack
        return tokens[:FALLBACK_TOKENS].tolist()


def _until_end(tokenizer: Tokenizer, prompt: list[int], new_tokens: list[int]) -> str:
    """The text, up to the end-of-text token where there is one."""
    shown = list(prompt)
    for token in new_tokens:
        if token == tokenizer.eot:
            break
        shown.append(token)
    return tokenizer.decode(shown)
