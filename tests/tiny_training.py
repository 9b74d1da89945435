"""A module and data that train in a second, and an objective with a best metric of its own."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gptlab.data.base import PreparedData
from gptlab.data.module import DataModule
from gptlab.data.windows import EvalWindows, WindowDataset
from gptlab.objective import Loss
from gptlab.objective.next_token import NextToken
from gptlab.tokenizer.char import CharTokenizer
from gptlab.training.module import TrainingModule
from gptlab.training.optimizers import adamw
from tiny_gpt import tiny_gpt

CONTEXT, BATCH, STEPS = 8, 6, 5
TOKENS = np.random.default_rng(0).integers(0, 20, 1003).astype(np.uint16)
TOKENIZER = CharTokenizer(characters="abcdefghijklmnopqrst")


def adam(model: torch.nn.Module) -> torch.optim.Optimizer:
    return adamw(model, lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)


def make_module(
    *,
    rows: int = BATCH,
    dropout: float = 0.0,
    grad_clip: float | None = 0.1,
    steps: int = STEPS,
    seed: int = 0,
    optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer] = adam,
    on_nonfinite: str = "stop",
    log_every: int = 1,
) -> TrainingModule:
    return TrainingModule(
        model=tiny_gpt(context_length=CONTEXT, dropout=dropout),
        objective=NextToken(),
        optimizer=optimizer,
        schedule=lambda step: 1.0,
        data=prepared_data(),
        config={},
        seed=seed,
        micro_batch_size=rows,
        max_steps=steps,
        grad_clip=grad_clip,
        on_nonfinite=on_nonfinite,
        log_every=log_every,
    )


def prepared_data() -> PreparedData:
    n_train = int(0.9 * len(TOKENS))
    return PreparedData(
        name="numbers",
        tokenizer=TOKENIZER,
        fingerprint="",
        description="",
        train=WindowDataset(TOKENS[:n_train], context_length=CONTEXT, stride=CONTEXT),
        val=EvalWindows(TOKENS[n_train:], context_length=CONTEXT, stride=CONTEXT),
        test=None,
        val_bytes_per_token=1.0,
        prompt="abc",
    )


def make_data(*, rows: int = BATCH, steps: int = STEPS, seed: int = 0) -> DataModule:
    data = prepared_data()
    return DataModule(data, batch_size=BATCH, micro_batch_size=rows, n_steps=steps, seed=seed, num_workers=0)


class Accuracy:
    """An objective with another best metric: how often the most likely token is the right one."""

    metrics, best_metric, direction = ("accuracy",), "val/accuracy", "max"

    def summary(self, loss: float) -> dict[str, float]:
        return {}

    def count(self, batch: tuple[Tensor, ...]) -> Tensor:
        return torch.tensor(batch[1].numel())

    def __call__(self, model: torch.nn.Module, batch: tuple[Tensor, ...]) -> Loss:
        logits = model(batch[0])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten(), reduction="sum")
        return Loss(loss, self.count(batch), {"accuracy": (logits.argmax(-1) == batch[1]).sum()})
