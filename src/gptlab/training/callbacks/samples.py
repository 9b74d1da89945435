"""What the model writes, at each validation: the number that no curve shows."""

import logging

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from gptlab.generation.decoding import generate
from gptlab.generation.sampling import make_sampler
from gptlab.training.loggers import TensorBoard
from gptlab.training.module import TrainingModule

log = logging.getLogger("gptlab")


class Samples(L.Callback):
    """Continues a prompt and shows the text in the terminal and in TensorBoard.

    Args:
        prompt: what to continue; None takes the first tokens of the validation text.
        prompt_tokens: how many those are.
        max_new_tokens, temperature, top_k: as in generation.
        seed: the same at every validation, so that texts differ by what was learnt.
    """

    def __init__(
        self,
        *,
        prompt: str | None,
        prompt_tokens: int,
        max_new_tokens: int,
        temperature: float,
        top_k: int | None,
        seed: int,
    ) -> None:
        make_sampler(temperature=temperature, top_k=top_k, top_p=None, generator=None)  # refuses bad values now
        self.prompt = prompt
        self.prompt_tokens = prompt_tokens
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_k = top_k
        self.seed = seed

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        if self.prompt is not None:
            prompt = module.tokenizer.encode(self.prompt)
        else:
            prompt = trainer.datamodule.val.tokens[: self.prompt_tokens].tolist()  # type: ignore[attr-defined]
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
        text = module.tokenizer.decode(prompt + new_tokens)
        log.info("sample │ %s", "\n       │ ".join(text.splitlines()))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_text("sample", text, trainer.global_step)
