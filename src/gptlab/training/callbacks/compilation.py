"""Compiles the model before the first step, and says how long it took."""

import logging
import time
from typing import Any

import lightning as L
import numpy as np
import torch

log = logging.getLogger("gptlab")


class Compilation(L.Callback):
    """Makes torch's compiler work before the clock runs, once for training and once for validation.

    Args:
        n_rows: sequences of a micro-batch.
    """

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Raises RuntimeError if the model cannot be compiled."""
        log.info("compiling the model, which may take a minute or more")
        began, data = time.perf_counter(), module.data.train
        batch = tuple(part.to(module.device) for part in data.batch(np.arange(min(self._n_rows, len(data)))))
        try:
            with trainer.precision_plugin.forward_context():
                module.objective(module.model, batch).sum.backward()
                module.zero_grad()
                module.eval()
                with torch.inference_mode():
                    module.objective(module.model, batch)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler's are of many kinds
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RuntimeError(f"torch cannot compile this model ({reason}); use compile=false") from error
        module.train()
        log.info("compiled in %.1f s", time.perf_counter() - began)
