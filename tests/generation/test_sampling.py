import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.generation.sampling import Sampler, greedy, keep_top_k, keep_top_p, make_sampler

LOGITS = torch.tensor([[0.1, 3.0, 2.0, -1.0], [5.0, 1.0, 1.0, 4.0]])


def sampler(**changes: object) -> Sampler:
    settings = {"temperature": 1.0, "top_k": None, "top_p": None, "generator": torch.Generator().manual_seed(0)}
    return make_sampler(**{**settings, **changes})  # type: ignore[arg-type]


def test_top_k_keeps_the_k_largest() -> None:
    kept = keep_top_k(LOGITS, 2).isfinite()
    assert kept.tolist() == [[False, True, True, False], [True, False, False, True]]
    assert torch.equal(keep_top_k(LOGITS, 100), LOGITS)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12, unique=True), st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_sufficient_set(logits: list[float], top_p: float) -> None:
    row = torch.tensor([logits], dtype=torch.float64)
    probabilities = row.softmax(-1)[0]
    kept = keep_top_p(row, top_p).isfinite()[0]
    assert probabilities[kept].sum() >= top_p - 1e-9
    least_likely_kept = probabilities[kept].min()
    assert probabilities[kept].sum() - least_likely_kept < top_p + 1e-9
    assert (probabilities[~kept] <= least_likely_kept + 1e-12).all()


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-300])
def test_temperature_zero_is_greedy_and_a_tiny_one_never_nan(temperature: float) -> None:
    assert sampler(temperature=temperature)(LOGITS).tolist() == greedy(LOGITS).tolist() == [1, 0]


def test_frequencies_follow_the_softmax_and_the_seed() -> None:
    draws = [sampler(temperature=2.0)(LOGITS[:1].expand(40_000, -1)) for _ in range(2)]
    assert torch.equal(*draws)
    frequencies = torch.bincount(draws[0], minlength=4) / 40_000
    torch.testing.assert_close(frequencies, (LOGITS[0] / 2).softmax(-1), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 1.1}, r"top_p=1.1 must lie in \(0, 1\]"),
    ],
)
def test_impossible_choices_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**changes)
