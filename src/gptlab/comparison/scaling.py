"""Scaling laws: loss as a sum of powers of model size and tokens, fitted to finished runs, with intervals.

The fit is that of Hoffmann et al. 2022 (arXiv:2203.15556, appendix D.3).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

DELTA = 1e-3  # residual in log loss from which the Huber loss is linear
EXPONENTS, N_STARTS = (0.1, 0.2, 0.35, 0.5, 0.8, 1.2), 4  # a grid; the best of its points are starts
LEAST_SHARE = 0.05  # of E and of each term in the losses that a fit starts at: near zero its gradient vanishes
EXPONENT_BOUNDS, LOG_BOUNDS = (0.05, 3.0), (-30.0, 30.0)  # of the exponents; of the logarithms of E and the terms


@dataclass(frozen=True, eq=False)
class Fit:
    """The law L(x) = E + sum_i A_i / x_i^alpha_i, for losses in nats per token.

    Attributes:
        values: (1 + n_refits, p), E, then A_i and alpha_i of each of k terms, p = 1 + 2 k; those of the fit, then those
            of fits to simulated losses. There are none if there are only as many points as parameters.
        noise: (n_refits,), simulated noise of one further run, in log loss.
    """

    values: np.ndarray
    noise: np.ndarray

    def prediction(self, x: np.ndarray) -> dict[str, Any]:
        """The loss of one further run at x (k,). Its interval is that of the law and of the noise between runs."""
        loss, *others = loss_at(self.values, x)
        return number(np.array([loss, *others * np.exp(self.noise), *others * np.exp(-self.noise)]))


def number(values: np.ndarray) -> dict[str, Any]:
    """A value, and the interval of 90 % of those after it, which is None if there are none."""
    value, *others = values.tolist()
    return {
        "value": value,
        "interval": np.quantile(others, (0.05, 0.95), method="weibull").tolist() if others else None,
    }


def loss_at(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The law with values (..., p) at x (..., k): losses (...,)."""
    return values[..., 0] + (values[..., 1::2] * x ** -values[..., 2::2]).sum(axis=-1)


def frontier(values: np.ndarray) -> np.ndarray:
    """G, a and b of the sizes with the least loss at C = 6 N D FLOPs: N = G (C/6)^a, D = (C/6)^b / G (equation 4).

    `values` (..., 5) are of a law with the terms A / N^alpha and B / D^beta.
    """
    _, a, alpha, b, beta = np.moveaxis(values, -1, 0)
    scale = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    return np.stack([scale, beta / (alpha + beta), alpha / (alpha + beta)], axis=-1)


def fit(x: np.ndarray, losses: np.ndarray, *, n_refits: int, progress: Callable[[], object] = lambda: None) -> Fit:
    """Fit losses (n,) at x (n, k). Raises ValueError if they are fewer than the parameters of the law.

    The refits are a parametric bootstrap: each sees losses of the law with normal noise in log loss. Its variance
    is that of the residuals with n - p degrees of freedom, drawn anew for each refit (scaled inverse chi-squared).
    Resampled residuals would be too small, because the Huber loss makes about p of them zero.
    """
    n, n_parameters = len(losses), 1 + 2 * x.shape[1]
    if n < n_parameters:
        raise ValueError(f"a law with {n_parameters} parameters needs at least as many runs, not {n}")
    center = np.log(x).mean(axis=0)  # (k,); there, exponents and coefficients are nearly independent
    logs, observed, generator = np.log(x) - center, np.log(losses), np.random.default_rng(0)
    _, best = min((_minimum(start, logs, observed) for start in _starts(logs, losses)), key=lambda found: found[0])
    fitted = np.logaddexp.reduce(_log_terms(best, logs), axis=1)
    start, logarithms = best.copy(), [0, *range(1, n_parameters, 2)]
    start[logarithms] = np.maximum(best[logarithms], np.log(LEAST_SHARE * losses.min()))
    found, noise = [best], []
    for _ in range(n_refits if n > n_parameters else 0):
        progress()
        scale = np.sqrt(((observed - fitted) ** 2).sum() / generator.chisquare(n - n_parameters))
        *simulated, further = scale * generator.standard_normal(n + 1)
        found.append(_minimum(start, logs, fitted + simulated)[1])
        noise.append(further)
    values = np.array(found)  # (1 + n_refits, p), with logarithms of E and of the terms at the center
    values[:, 1::2] += values[:, 2::2] * center
    values[:, logarithms] = np.exp(values[:, logarithms])
    return Fit(values, np.array(noise))


def _starts(logs: np.ndarray, losses: np.ndarray) -> list[np.ndarray]:
    """The best of a grid over the exponents; E and the coefficients of each are a linear problem without negatives."""
    from scipy.optimize import nnls  # a fifth of a second: only fits pay

    starts = []
    for exponents in itertools.product(EXPONENTS, repeat=logs.shape[1]):
        terms = np.column_stack([np.ones(len(losses)), np.exp(-np.array(exponents) * logs)])
        weights, error = nnls(terms / losses[:, None], np.ones(len(losses)))
        e, *coefficients = np.log(np.maximum(weights, LEAST_SHARE * losses.min()))
        starts.append((error, [e, *itertools.chain(*zip(coefficients, exponents, strict=True))]))
    return [np.array(start) for _, start in sorted(starts)[:N_STARTS]]


def _minimum(start: np.ndarray, logs: np.ndarray, observed: np.ndarray) -> tuple[float, np.ndarray]:
    """The least Huber loss, and the parameters there."""
    from scipy.optimize import minimize

    bounds, tolerances = [LOG_BOUNDS, *[LOG_BOUNDS, EXPONENT_BOUNDS] * logs.shape[1]], {"ftol": 1e-9, "gtol": 1e-6}
    found = minimize(_huber, start, (logs, observed), method="L-BFGS-B", jac=True, bounds=bounds, options=tolerances)
    return found.fun, found.x


def _log_terms(theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Logarithms of E and of the terms, (n, 1 + k)."""
    return np.column_stack([np.full(len(logs), theta[0]), theta[1::2] - theta[2::2] * logs])


def _huber(theta: np.ndarray, logs: np.ndarray, observed: np.ndarray) -> tuple[float, np.ndarray]:
    """The Huber loss of the residuals in log loss, and its gradient (p,), in units of DELTA^2.

    Without the unit it is so small that the optimizer stops early (Besiroglu et al. 2024, arXiv:2404.10102).
    """
    terms = _log_terms(theta, logs)
    fitted = np.logaddexp.reduce(terms, axis=1)
    residuals = observed - fitted
    clipped = np.clip(residuals, -DELTA, DELTA)
    slopes = clipped[:, None] * np.exp(terms - fitted[:, None])  # (n, 1 + k)
    gradient = np.empty(len(theta))
    gradient[[0, *range(1, len(theta), 2)]] = -slopes.sum(axis=0)
    gradient[2::2] = (slopes[:, 1:] * logs).sum(axis=0)
    return float((clipped * (residuals - clipped / 2)).sum()) / DELTA**2, gradient / DELTA**2
