"""The LightningDataModule: hands each rank its batches."""

from collections.abc import Iterator

import lightning as L
import numpy as np
from torch import Tensor

from gptlab.data.loader import ShuffledBatches, TrainLoader
from gptlab.data.windows import EveryTarget, WindowDataset


class WindowDataModule(L.LightningDataModule):
    """Training batches by step number, validation batches that count every token once.

    Args:
        train: training windows.
        val: validation windows.
        batch_size: sequences of one optimizer step over all ranks.
        micro_batch_size: sequences that one device holds at once, also in validation.
        n_steps: length of the run.
        seed: of the shuffle.
        num_workers: processes that gather training batches; 0 for none.
    """

    def __init__(
        self,
        *,
        train: WindowDataset,
        val: EveryTarget,
        batch_size: int,
        micro_batch_size: int,
        n_steps: int,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.n_steps = n_steps
        self.seed = seed
        self.num_workers = num_workers

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def train_dataloader(self) -> TrainLoader:
        rank, n_ranks = self._rank()
        batches = ShuffledBatches(self.train, batch_size=self.batch_size, seed=self.seed, rank=rank, n_ranks=n_ranks)
        start = self.trainer.global_step if self.trainer is not None else 0
        return TrainLoader(batches, start=start, n_steps=self.n_steps, num_workers=self.num_workers)

    def val_dataloader(self) -> "ValLoader":
        rank, n_ranks = self._rank()
        return ValLoader(self.val, rows=self.micro_batch_size, rank=rank, n_ranks=n_ranks)


class ValLoader:
    """This rank's part of the validation windows, in order; every rank has as many batches, the last may be empty."""

    def __init__(self, windows: EveryTarget, *, rows: int, rank: int, n_ranks: int) -> None:
        self.windows = windows
        self.rows = rows
        self.rank = rank
        self.n_ranks = n_ranks

    def __len__(self) -> int:
        return -(-len(self.windows) // (self.rows * self.n_ranks))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(len(self)):
            start = (number * self.n_ranks + self.rank) * self.rows
            yield self.windows.batch(np.arange(start, max(start, min(start + self.rows, len(self.windows)))))
