"""Scaling laws: known constants are found again, and intervals contain them as often as they say."""

import itertools

import numpy as np
import pytest
from scipy.optimize import check_grad

from gptlab.comparison import scaling
from gptlab.comparison.scaling import fit, frontier, loss_at, number

CHINCHILLA = np.array([1.69, 406.4, 0.34, 410.7, 0.28])
"""E, A, alpha, B, beta of Hoffmann et al. 2022, section 3.3."""
SIZES, BUDGETS = np.geomspace(5e7, 1e10, 5), np.geomspace(1e9, 3e11, 5)
LADDER = np.array([*itertools.product(SIZES, BUDGETS)])
LARGER = np.array([4e10, 1e12])


def noisy(seed: int, spread: float = 0.005) -> tuple[np.ndarray, float]:
    """Losses of the ladder and of a larger model, with noise in log loss."""
    noise = spread * np.random.default_rng(seed).standard_normal(len(LADDER) + 1)
    losses = loss_at(CHINCHILLA, np.vstack([LADDER, LARGER])) * np.exp(noise)
    return losses[:-1], float(losses[-1])


def test_published_constants_are_recovered_to_three_digits() -> None:
    grid = np.array([*itertools.product(np.geomspace(1e7, 1e11, 7), np.geomspace(1e8, 1e13, 7))])
    assert fit(grid, loss_at(CHINCHILLA, grid), n_refits=0).values[0] == pytest.approx(CHINCHILLA, rel=5e-4)


@pytest.mark.parametrize(("x", "known"), [(SIZES, CHINCHILLA[:3]), (BUDGETS, CHINCHILLA[[0, 3, 4]])])
def test_a_law_of_one_size_is_the_same_code(x: np.ndarray, known: np.ndarray) -> None:
    assert fit(x[:, None], loss_at(known, x[:, None]), n_refits=0).values[0] == pytest.approx(known, rel=5e-4)


def test_the_gradient_is_that_of_the_loss() -> None:
    observed = np.log(noisy(0)[0])
    logs = np.log(LADDER) - np.log(LADDER).mean(axis=0)
    theta = np.array([0.6, -1.0, 0.3, -0.9, 0.4])
    of_loss, of_gradient = (lambda theta, i=i: scaling._huber(theta, logs, observed)[i] for i in (0, 1))
    assert check_grad(of_loss, of_gradient, theta) < 1e-4 * np.linalg.norm(of_gradient(theta))


def coverage(n_draws: int, n_refits: int) -> np.ndarray:
    """How many intervals contain E, alpha, beta, the exponent of the frontier, and the loss of a larger run."""
    hits = np.zeros(5)
    for seed in range(n_draws):
        losses, larger = noisy(seed)
        found = fit(LADDER, losses, n_refits=n_refits)
        known = [CHINCHILLA[0], CHINCHILLA[2], CHINCHILLA[4], frontier(CHINCHILLA)[1], larger]
        table = np.column_stack([found.values[:, [0, 2, 4]], frontier(found.values)[:, 1]])
        numbers = [*map(number, table.T), found.prediction(LARGER)]
        bounds = np.array([its["interval"] for its in numbers])
        hits += (bounds[:, 0] < known) & (known < bounds[:, 1])
    return hits


def test_intervals_contain_what_is_known() -> None:
    assert coverage(n_draws=20, n_refits=40).min() >= 16


@pytest.mark.slow
def test_intervals_contain_what_is_known_nine_times_in_ten() -> None:
    assert coverage(n_draws=100, n_refits=100).min() >= 85


def test_one_outlier_does_not_move_the_law() -> None:
    losses = loss_at(CHINCHILLA, LADDER)
    losses[12] *= 1.3
    assert fit(LADDER, losses, n_refits=0).values[0] == pytest.approx(CHINCHILLA, rel=0.02)


def test_a_floor_that_noise_hides_has_a_wide_interval() -> None:
    x = LADDER[(LADDER[:, 0] < 1e9) & (LADDER[:, 1] < 1e10)]
    intervals = []
    for seed in range(6):
        noise = np.exp(0.03 * np.random.default_rng(seed).standard_normal(len(x)))
        intervals.append(number(fit(x, loss_at(CHINCHILLA, x) * noise, n_refits=50).values[:, 0])["interval"])
    low, high = np.array(intervals).T
    assert ((low < CHINCHILLA[0]) & (CHINCHILLA[0] < high)).sum() >= 5
    assert (high - low > 0.5).all()


def test_the_frontier_has_the_least_loss_of_all_splits_of_the_compute() -> None:
    flops = np.array([1e18, 1e21, 1e24])
    scale, a, b = frontier(CHINCHILLA)
    best = np.column_stack([scale * (flops / 6) ** a, (flops / 6) ** b / scale])
    assert 6 * best.prod(axis=1) == pytest.approx(flops)
    for factor in (0.9, 1.1):
        other = best * [factor, 1 / factor]
        assert (loss_at(CHINCHILLA, other) > loss_at(CHINCHILLA, best)).all()


def test_as_many_points_as_parameters_have_no_interval_and_fewer_no_fit() -> None:
    x = SIZES[:, None]
    exact = fit(x[:3], loss_at(CHINCHILLA[:3], x[:3]), n_refits=10)
    assert number(exact.values[:, 2])["interval"] is None
    assert exact.prediction(x[4])["interval"] is None
    with pytest.raises(ValueError, match="3 parameters needs at least as many runs, not 2"):
        fit(x[:2], loss_at(CHINCHILLA[:3], x[:2]), n_refits=10)


def test_a_fit_is_repeatable() -> None:
    one, other = (fit(LADDER, noisy(0)[0], n_refits=5) for _ in range(2))
    assert (one.values == other.values).all()
