"""Batches by number: global batch k is a pure function of (seed, k)."""

import signal
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gptlab.data.shuffle import permute
from gptlab.data.windows import WindowDataset


class Batches(Protocol):
    """Batches of one rank by their number."""

    def __getitem__(self, k: int) -> tuple[Tensor, ...]: ...


class ShuffledBatches(Dataset):
    """This rank's share of the global batches, shuffled anew in every epoch, epochs without end.

    Sample s of the run, s = k * batch_size + row, is the window at place s mod n of epoch s div n's permutation. Ranks
    take rows from the same global batch: rank r has rows [r B / R, (r + 1) B / R).
    """

    def __init__(self, windows: WindowDataset, *, batch_size: int, seed: int, rank: int, n_ranks: int) -> None:
        self.windows = windows
        self.batch_size = batch_size
        self.seed = seed
        share = batch_size // n_ranks
        self._rows = np.arange(rank * share, (rank + 1) * share)

    def __getitem__(self, k: int) -> tuple[Tensor, ...]:
        """Inputs and targets of global batch k, (B / R, T) each."""
        n = len(self.windows)
        samples = k * self.batch_size + self._rows
        epochs, places = samples // n, samples % n
        indices = np.empty_like(samples)
        for epoch in np.unique(epochs):  # a batch may end one epoch and begin the next
            members = epochs == epoch
            indices[members] = permute(places[members], n, seed=self.seed, epoch=int(epoch))
        return self.windows.batch(indices)


class TrainLoader:
    """Yields the batches of steps [start, n_steps).

    Lightning sees an iterable of a known length, not a DataLoader: it would prefetch a batch where it knows no length,
    and put a sampler of its own into a DataLoader. There is no position to save: it is the number of steps done.
    """

    def __init__(self, batches: Batches, *, start: int, n_steps: int, num_workers: int) -> None:
        self._batches = batches
        self._numbers = range(start, n_steps)
        self._num_workers = num_workers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return load(self._batches, self._numbers, self._num_workers)


def load(batches: Batches, numbers: range, num_workers: int) -> Iterator[tuple[Tensor, ...]]:
    """The batches of these numbers in their order, made by workers or, with 0, right here.

    Gathering a batch takes microseconds, so workers pay only for texts that do not fit into memory.
    """
    if num_workers == 0:
        return (batches[k] for k in numbers)
    loader: DataLoader = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        sampler=numbers,
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_parent,
    )
    return iter(loader)


def _leave_signals_to_parent(worker: int) -> None:
    """A signal to the whole group of processes must not take the batch away that the last step waits for."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
