"""Pictures of any size are drawn, without a warning, and without what no font has."""

import warnings

import pytest
import torch

from gptlab.inspection.drawing import label, pixels
from gptlab.inspection.look import Inspection
from gptlab.inspection.maps import attention_grid, attention_of_layer
from gptlab.inspection.predictions import lens, surprise

ODD = ["$x$", "$", "·word", "日本", "\U0001f469", "↵", "a" * 80, "◌\u0301", "\\xe2"]


def made_up(n_layers: int, n_heads: int, n_tokens: int) -> tuple[Inspection, dict[int, str]]:
    texts = dict(enumerate(ODD))
    weights = torch.ones(n_layers, n_heads, n_tokens, n_tokens).tril()
    return Inspection(
        ids=torch.arange(n_tokens) % len(ODD),
        attention=weights / weights.sum(-1, keepdim=True),
        losses=torch.linspace(0, 20, n_tokens - 1),
        ranks=torch.ones(n_tokens - 1, dtype=torch.int64),
        next_ids=torch.zeros(n_tokens, 3, dtype=torch.int64),
        next_probabilities=torch.full((n_tokens, 3), 0.2),
        layer_ids=torch.arange(n_layers + 1)[:, None] % len(ODD) + torch.zeros(n_tokens, dtype=torch.int64),
        layer_probabilities=torch.full((n_layers + 1, n_tokens), 0.5),
        layer_losses=torch.ones(n_layers + 1, n_tokens - 1),
    ), texts


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 5, 9), (20, 16, 3)])
def test_every_size_is_drawn_without_a_warning(sizes: tuple[int, int, int]) -> None:
    inspection, texts = made_up(*sizes)
    tokens = [texts[id_] for id_ in inspection.ids.tolist()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (
            attention_grid(inspection.attention, "$" * 300),
            attention_of_layer(inspection.attention[0], tokens, layer=1),
            surprise(inspection, texts, vocab_size=sizes[2]),
            lens(inspection, texts),
        ):
            height, width, colours = pixels(figure).shape
            assert colours == 3
            assert 400 < width < 2500
            assert 100 < height < 2500


def test_a_map_is_where_its_layer_and_head_say() -> None:
    attention = torch.eye(4).expand(2, 3, 4, 4).clone()
    attention[1, 2] = torch.tensor([1.0, 0, 0, 0])  # all look at the first
    figure = attention_grid(attention, "")
    shown = figure.axes[0].images[0].get_array()
    step = 5  # four tokens and a gap
    assert shown[step : step + 4, 2 * step].tolist() == [1.0] * 4
    assert shown[0:4, 0].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_what_no_font_has_is_escaped() -> None:
    assert label("\U000e0001") == "\\U000e0001"
    assert label("a" * 50, 10) == "a" * 9 + "…"
