import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.generation.sampling import greedy, keep_top_k, keep_top_p, make_sampler

LOGITS = torch.tensor([[0.1, 3.0, 2.0, -1.0], [5.0, 1.0, 1.0, 4.0]])


def sampler(**changes: object):
    settings_ = {
        "temperature": 1.0,
        "top_k": None,
        "top_p": None,
        "generator": torch.Generator().manual_seed(0),
    }
    return make_sampler(**{**settings_, **changes})


def test_top_k_keeps_the_k_largest() -> None:
    kept = keep_top_k(LOGITS, 2).isfinite()
    assert kept.tolist() == [[False, True, True, False], [True, False, False, True]]


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert torch.equal(keep_top_k(LOGITS, 100), LOGITS)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12, unique=True), st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_sufficient_set(logits: list[float], top_p: float) -> None:
    row = torch.tensor([logits], dtype=torch.float64)
    probabilities = row.softmax(-1)[0]
    kept = keep_top_p(row, top_p).isfinite()[0]
    assert probabilities[kept].sum() >= top_p - 1e-9
    least_likely_kept = probabilities[kept].min()
    assert probabilities[kept].sum() - least_likely_kept < top_p + 1e-9
    assert (probabilities[~kept] <= least_likely_kept + 1e-12).all()


def test_temperature_zero_is_greedy() -> None:
    assert sampler(temperature=0.0)(LOGITS).tolist() == greedy(LOGITS).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [1e-30, 1e-46, 1e-300])
def test_a_tiny_temperature_is_nearly_greedy_and_never_nan(temperature: float) -> None:
    assert sampler(temperature=temperature)(LOGITS).tolist() == [1, 0]


def test_frequencies_follow_the_softmax() -> None:
    draws = sampler(temperature=2.0)(LOGITS[:1].expand(40_000, -1))
    frequencies = torch.bincount(draws, minlength=4) / 40_000
    torch.testing.assert_close(frequencies, (LOGITS[0] / 2).softmax(-1), atol=0.01, rtol=0)


def test_the_same_seed_draws_the_same() -> None:
    draw = [sampler(generator=torch.Generator().manual_seed(3))(LOGITS.expand(2, 4)).tolist() for _ in range(2)]
    assert draw[0] == draw[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p=0.0 must lie in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p=1.1 must lie in \(0, 1\]"),
    ],
)
def test_impossible_choices_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**changes)
