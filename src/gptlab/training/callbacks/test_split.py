"""The test split of a classifier, measured once, when the run is finished."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from gptlab.data.loader import OrderedBatches
from gptlab.inspection.drawing import font, label, new_figure
from gptlab.objective.classification import confusion, wilson_interval
from gptlab.training.drawing import save
from gptlab.training.ranks import takes_part
from gptlab.training.run_files import BEST

BATCH = 16
LONGEST_LABEL = 24


class TestSplit(L.Callback):
    """Adds the test accuracy of best.ckpt to summary.json, with its 95 % interval, and draws confusion.png."""

    __test__ = False  # pytest takes the name for a test

    def __init__(self, *, directory: str) -> None:
        self.directory = Path(directory)

    def on_fit_end(self, trainer: L.Trainer, module: Any) -> None:
        """The run is over, so the module may keep the weights of best.ckpt. All of a sharded model compute together."""
        if not takes_part(trainer):
            return
        best, data = self.directory / "checkpoints" / BEST, module.data
        if data.test is None:
            return
        if best.is_file():
            weights = torch.load(best, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
            trainer.strategy.load_model_state_dict({"state_dict": weights}, strict=False)
        module.to(trainer.strategy.root_device).eval()
        batches = OrderedBatches(data.test, rows=BATCH, rank=0, n_ranks=1)
        with trainer.precision_plugin.forward_context():
            counts = confusion(module.model, map(batches.__getitem__, range(len(batches))), len(data.labels))
        n_right, n, n_of = int(counts.diagonal().sum()), int(counts.sum()), counts.sum(dim=1).double()
        rows = [dict(zip(data.labels, row, strict=True)) for row in counts.tolist()]
        module.summary = {
            "test_texts": n,
            "test_accuracy": n_right / n,
            "test_accuracy_interval": list(wilson_interval(n_right, n)),
            "test_balanced_accuracy": float((counts.diagonal() / n_of)[n_of > 0].mean()),
            "test_confusion": dict(zip(data.labels, rows, strict=True)),
        }
        if trainer.is_global_zero:
            draw_confusion(counts, data.labels, self.directory / "confusion.png")


def draw_confusion(counts: Tensor, labels: list[str], picture: Path) -> None:
    """Draw how often texts of each label (rows) are given each label (columns), (n_labels, n_labels)."""
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    names = [label(name, LONGEST_LABEL) for name in labels]
    figure = new_figure(*(min(2 + 0.6 * len(labels) + 0.1 * max(map(len, names)), 15),) * 2)
    axes: Any = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(labels)), names, rotation=30, **font(9))
    axes.set_yticks(range(len(labels)), names, **font(9))
    axes.set(xlabel="predicted label", ylabel="true label")
    save(figure, picture)
