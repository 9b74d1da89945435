"""Batches by number: global batch k is a pure function of (seed, k)."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from gptlab.data.base import Examples
from gptlab.data.shuffle import permute
from gptlab.objective import Batch


class ShuffledBatches:
    """This rank's share of the global training batches, shuffled anew in each epoch, without end.

    Sample s of the run, s = k * batch_size + row, is example s mod n of the permutation of epoch s div n. Rank r of R
    has rows [r B / R, (r + 1) B / R) of each global batch.
    """

    def __init__(self, examples: Examples, *, batch_size: int, seed: int, rank: int, n_ranks: int) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        share = batch_size // n_ranks
        self._rows = np.arange(rank * share, (rank + 1) * share)

    def __getitem__(self, k: int) -> Batch:
        n = len(self.examples)
        samples = k * self.batch_size + self._rows
        epochs, places = samples // n, samples % n
        indices = np.empty_like(samples)
        for epoch in np.unique(epochs):  # a batch may end one epoch and begin the next
            members = epochs == epoch
            indices[members] = permute(places[members], n, seed=self.seed, epoch=int(epoch))
        return self.examples.batch(indices)


@dataclass(frozen=True)
class OrderedBatches:
    """This rank's share of a split, in order, for validation and test.

    All ranks have the same number of batches. The last ones of a rank may be without indices (see `Examples.batch`).
    """

    examples: Examples
    rows: int
    rank: int
    n_ranks: int

    def __len__(self) -> int:
        return -(-len(self.examples) // (self.rows * self.n_ranks))

    def indices(self, k: int) -> np.ndarray:
        """Indices of the examples of batch k, (rows,) or fewer."""
        start = (k * self.n_ranks + self.rank) * self.rows
        return np.arange(start, min(start + self.rows, len(self.examples)))

    def __getitem__(self, k: int) -> Batch:
        return self.examples.batch(self.indices(k))


@dataclass(eq=False)
class Loader:
    """Yields the batches with these numbers, gathered by `num_workers` processes, or by this one if that is 0.

    It is not a DataLoader, into which Lightning would put a sampler of its own. There is no position to save: it is the
    number of steps done. Gathering windows takes microseconds, so workers pay only for a text larger than memory.
    """

    batches: ShuffledBatches | OrderedBatches
    numbers: range
    num_workers: int

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Batch]:
        if self.num_workers == 0:
            return (self.batches[k] for k in self.numbers)
        sampling: dict[str, Any] = {"batch_size": None, "sampler": self.numbers}
        workers: dict[str, Any] = {"num_workers": self.num_workers, "worker_init_fn": _ignore_signals}
        return iter(DataLoader(self.batches, **sampling, **workers))  # type: ignore[arg-type]


def _ignore_signals(worker: int) -> None:
    """A signal to the process group must not end a worker: the last step of the run waits for its batch."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
