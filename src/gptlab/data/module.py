"""The LightningDataModule: it gives each rank its batches."""

import lightning as L

from gptlab.data.base import Examples, PreparedData
from gptlab.data.loader import Loader, OrderedBatches, ShuffledBatches
from gptlab.errors import UserError
from gptlab.training.ranks import data_parallel


class DataModule(L.LightningDataModule):
    """Training batches by the number of the step; validation and test batches in order, each example once.

    Validation and test batches have `micro_batch_size` examples; `num_workers` processes gather training batches.
    """

    def __init__(
        self, data: PreparedData, *, batch_size: int, micro_batch_size: int, n_steps: int, seed: int, num_workers: int
    ) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.n_steps = n_steps
        self.seed = seed
        self.num_workers = num_workers

    def train_dataloader(self) -> Loader:
        """The batches of the steps that are left."""
        rank, n_ranks = data_parallel(self.trainer)
        train = self.data.train
        batches = ShuffledBatches(train, batch_size=self.batch_size, seed=self.seed, rank=rank, n_ranks=n_ranks)
        start = self.trainer.global_step if self.trainer is not None else 0
        end = max(self.n_steps, start + 1)  # a run that has only its last validation to make up for trains no step
        return Loader(batches, range(start, end), num_workers=self.num_workers)

    def val_dataloader(self) -> Loader:
        return self._in_order(self.data.val)

    def test_dataloader(self) -> Loader:
        """Raises UserError if there is no test split."""
        if self.data.test is None:
            raise UserError(f"{self.data.name} has no test split")
        return self._in_order(self.data.test)

    def _in_order(self, examples: Examples) -> Loader:
        rank, n_ranks = data_parallel(self.trainer)
        batches = OrderedBatches(examples, rows=self.micro_batch_size, rank=rank, n_ranks=n_ranks)
        return Loader(batches, range(len(batches)), num_workers=0)
