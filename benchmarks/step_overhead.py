"""What gptlab's training step costs beside Lightning's barest loop, with a model so small that little else is left.

    python benchmarks/step_overhead.py
    python benchmarks/step_overhead.py --log_every 1

Contenders have the same model, loss, batches, loader and AdamW. `barebones` is a LightningModule with a training step
of four lines under Trainer(barebones=True): no clipping, no seeds, no logs, no validation. `gptlab` logs to metrics.csv
and TensorBoard; callbacks and validation are left out. Numbers are the mean and the median of the steps
after the first tenth; at log_every=10 only the mean has the logs in it.
"""

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

import gptlab
import harness
from gptlab import build
from gptlab.cli import parts

SIZES = {"layers": 1, "width": 32, "context": 16, "batch": 4, "steps": 1000, "log_every": 10}
TINY = {"steps": 20}


class Barebones(L.LightningModule):
    """The least that trains."""

    def __init__(self, config: build.Config, vocabulary: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config, self.model = config, build.model(config, vocabulary)
        self.objective = build.part(config, "objective")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build.optimizer(self.config)(self.model)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        loss = self.objective(self.model, batch)
        return loss.sum / loss.count


def watch(module: L.LightningModule) -> list[float]:
    """Notes the time as each training step begins."""
    began, step = [], module.training_step

    def training_step(*inputs: Any) -> Any:
        began.append(time.perf_counter())
        return step(*inputs)

    module.training_step = training_step  # type: ignore[method-assign]
    return began


def numbers(began: list[float]) -> harness.Numbers:
    began = began[len(began) // 10 :]
    steps = [now - before for before, now in itertools.pairwise(began)]
    return {"ms a step": 1000 * statistics.mean(steps), "median": 1000 * statistics.median(steps)}


def barebones(config: build.Config) -> harness.Numbers:
    data = gptlab.data_module(config)
    module = Barebones(config, data.data.tokenizer.vocab_size)
    began = watch(module)
    trainer = L.Trainer(accelerator="cpu", barebones=True, max_steps=config["max_steps"], max_epochs=-1)
    trainer.fit(module, train_dataloaders=data.train_dataloader())
    return numbers(began)


def ours(config: build.Config) -> harness.Numbers:
    with tempfile.TemporaryDirectory() as directory:
        config = {**config, "run_dir": directory}
        data = gptlab.data_module(config)
        module = parts.training_module(config, data)
        began = watch(module)
        parts.trainer(config, []).fit(module, datamodule=data)
        return numbers(began)


def configured(sizes: argparse.Namespace) -> build.Config:
    steps = sizes.steps
    return gptlab.compose(
        [
            *(f"model.n_layers={sizes.layers}", f"model.d_model={sizes.width}", "model.n_heads=2"),
            *(f"context_length={sizes.context}", f"batch_size={sizes.batch}", f"max_steps={steps}"),
            *("trainer=cpu", "tokenizer=char", f"validate_every={steps}", f"log_every={sizes.log_every}"),
            *("trainer.limit_val_batches=0", "callbacks.checkpoints=null", "callbacks.samples=null"),
            *("callbacks.curves=null", "callbacks.progress=null"),
        ]
    )


def main() -> None:
    sizes = harness.Parser(__doc__, sizes=SIZES, tiny=TINY).parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    table = harness.Table(sizes, {"ms a step": ".3f", "median": ".3f"}, ratio_of=["ms a step"])
    config = configured(sizes)
    contenders = {"gptlab": partial(ours, config), "barebones": partial(barebones, config)}
    table.compare(f"log_every={config['log_every']}", contenders, to=["barebones"])


if __name__ == "__main__":
    main()
