import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data.loader import Loader, OrderedBatches, ShuffledBatches
from gptlab.data.shuffle import permute
from gptlab.data.windows import EvalWindows, WindowDataset

WINDOWS = WindowDataset(np.arange(503, dtype=np.uint16), context_length=4, stride=4)


def batches(rank: int = 0, n_ranks: int = 1, seed: int = 7) -> ShuffledBatches:
    return ShuffledBatches(WINDOWS, batch_size=8, seed=seed, rank=rank, n_ranks=n_ranks)


@given(st.integers(1, 3000), st.integers(0, 2**31), st.integers(0, 5))
@settings(deadline=None)
def test_shuffle_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(n), n, seed=seed, epoch=epoch)) == list(range(n))


def test_shuffle_differs_by_seed_and_epoch_and_looks_random() -> None:
    n = 10_000
    shuffles = [permute(np.arange(n), n, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, first in enumerate(shuffles):
        assert abs(np.corrcoef(first, np.arange(n))[0, 1]) < 0.05
        assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05
        for second in shuffles[i + 1 :]:
            assert (first == second).mean() < 0.01


def test_an_epoch_holds_every_window_once() -> None:
    n = len(WINDOWS)
    starts = torch.cat([batches()[k][0][:, 0] for k in range(3 * n // 8 + 1)])[: 3 * n]
    for epoch in starts.split(n):
        assert sorted(epoch.tolist()) == list(range(0, 4 * n, 4))


@pytest.mark.parametrize("n_ranks", [1, 2, 4])
def test_ranks_share_the_same_global_batches(n_ranks: int) -> None:
    for k in (0, 3, 100):
        shares = [batches(rank, n_ranks)[k] for rank in range(n_ranks)]
        for part in (0, 1):
            assert torch.equal(torch.cat([share[part] for share in shares]), batches()[k][part])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_change_nothing(num_workers: int) -> None:
    loader = Loader(batches(), range(20), num_workers=num_workers)
    loaded = list(loader)
    assert len(loaded) == len(loader) == 20
    for k, (inputs, targets) in enumerate(loaded):
        assert torch.equal(inputs, batches()[k][0])
        assert torch.equal(targets, batches()[k][1])


def test_a_resumed_run_gets_the_batches_of_its_steps() -> None:
    rest = list(Loader(batches(), range(4, 10), num_workers=0))
    assert len(rest) == 6
    assert torch.equal(rest[0][0], batches()[4][0])


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 20])
def test_validation_ranks_share_all_windows_in_as_many_batches_none_of_them_empty(n_ranks: int) -> None:
    val = EvalWindows(np.arange(101, dtype=np.uint16), context_length=4, stride=4)
    shares = [OrderedBatches(val, rows=3, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
    per_rank = [[share[k] for k in range(len(share))] for share in shares]
    assert len({len(rank) for rank in per_rank}) == 1
    assert all(len(inputs) > 0 for rank in per_rank for inputs, _ in rank)
    targets = torch.cat([targets.flatten() for rank in per_rank for _, targets in rank])
    assert sorted(targets[targets >= 0].tolist()) == list(range(1, 101))
