"""What goes wrong in tests, by its `_target_`: callbacks, an attention, an objective."""

import ctypes
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from gptlab.model import LanguageModel
from gptlab.model.attention.fused import FusedAttention
from gptlab.objective import Batch, Loss
from gptlab.objective.next_token import NextToken
from gptlab.training.module import TrainingModule


class Accident(L.Callback):
    """What happens in a trial before a step, counted from 0: nothing, a weight that is nan, an exception, or kill -9.

    Args:
        kinds: of each seed `none`, `poison` (a weight becomes nan), `raise`, `kill` (this process) or `kill_sweep`: the
            sweep, and then this process; once, for a file tells that it has happened.
        seed: of this trial.
        step: before which.
        directory: of the run.
    """

    def __init__(self, *, kinds: list[str], seed: int, step: int, directory: str) -> None:
        self.kind = kinds[seed]
        self.step = step
        self.has_happened = Path(directory, "killed")

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step != self.step:
            return
        if self.kind == "poison":
            with torch.no_grad():
                next(module.parameters()).fill_(float("nan"))
        if self.kind == "raise":
            raise RuntimeError("this trial was meant to fail")
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "kill_sweep" and not self.has_happened.exists():
            self.has_happened.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


class RankAccident(L.Callback):
    """What happens once to one rank, in one hook of one step: kill -9, an exception, or a pause.

    Args:
        kind: `kill`; `kill_in_write`, when the file of the checkpoint is half written; `kill_launched`, the rank that
            this one has launched, after which this one waits; `raise`; `signal`, a scheduler's that the job ends soon;
            or the seconds of a pause in which no other thread of the process can run.
        rank, hook, step: to whom and when. Steps are counted from 0.
        directory: of the run; its file `happened` gets the time, in seconds.
    """

    def __init__(self, *, kind: str | float, rank: int, hook: str, step: int, directory: str) -> None:
        self.kind, self.rank, self.step = kind, rank, step
        self.happened = Path(directory, "happened")
        setattr(self, hook, self._happen)

    def _happen(self, trainer: L.Trainer, module: L.LightningModule, *arguments: Any) -> None:
        if (trainer.global_rank, trainer.global_step) != (self.rank, self.step) or self.happened.exists():
            return
        if self.kind == "kill_in_write":
            arguments[0]["accident"] = self
            return
        self.happened.write_text(str(time.time()))
        if self.kind == "raise":
            raise RuntimeError("a cosmic ray")
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "kill_launched":
            launcher: Any = trainer.strategy.launcher
            launcher.procs[0].kill()
            time.sleep(600)
        if self.kind == "signal":
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            ctypes.PyDLL(None).sleep(int(self.kind))

    def __reduce__(self) -> Any:
        self.happened.write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)


class Recorder(L.Callback):
    """Writes down what each rank trains on, and with which settings: one line a step in rank<number>.jsonl.

    Args:
        directory: of the run.
    """

    def __init__(self, *, directory: str) -> None:
        self.directory = Path(directory)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, *_: Any) -> None:
        assert isinstance(module, TrainingModule)
        line = {
            "step": trainer.global_step,
            "lr": module.config["optimizer"]["lr"],
            "config": {key: value for key, value in module.config.items() if key not in ("run_dir", "trainer")},
            "ranks": trainer.world_size,
            "rows": batch[0].tolist(),
        }
        with (self.directory / f"rank{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


class RankMemory(L.Callback):
    """Writes down the bytes that each rank keeps for weights, gradients and optimizer states: rank<number>.json.

    Args:
        directory: of the run.
    """

    def __init__(self, *, directory: str) -> None:
        self.directory = Path(directory)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        weights = list(module.parameters())
        states = [value for state in optimizer.state.values() for value in state.values()]
        kept = {"weights": weights, "gradients": [weight.grad for weight in weights], "optimizer": states}
        n_bytes = {kind: sum(_local(tensor).nbytes for tensor in tensors) for kind, tensors in kept.items()}
        (self.directory / f"rank{trainer.global_rank}.json").write_text(json.dumps(n_bytes))


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class InfiniteGradient(L.Callback):
    """Makes the gradient of one step infinite.

    Args:
        step: which one, counted from 0.
    """

    def __init__(self, *, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            for weight in module.parameters():
                assert weight.grad is not None
                weight.grad.mul_(float("inf"))


class OffByOne(FusedAttention):
    """An attention whose mask is off by one: each token sees the next."""

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Any) -> torch.Tensor:
        n = queries.shape[2]
        allowed = torch.ones(n, n, dtype=torch.bool).tril(diagonal=1)
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed)


class HalfTheLoss(NextToken):
    """An objective that divides by too much."""

    def __call__(self, model: LanguageModel, batch: Batch) -> Loss:
        loss = super().__call__(model, batch)
        return replace(loss, sum=loss.sum / 2)
