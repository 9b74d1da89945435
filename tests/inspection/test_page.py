"""The page stands alone, its tokens are never anything but text, and pictures of any size are drawn."""

import base64
import json
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from gptlab.inspection.analyze import Inspection, analyze
from gptlab.inspection.drawing import attention_grid, pixels
from gptlab.inspection.page import page
from gptlab.model.init import textbook
from tiny_gpt import tiny_gpt

HOSTILE = [
    *("<script>alert(1)</script>", "</script>", "{{script}}", "&amp;", '"onload="x', "'", "<!--", "]]>", "\\u003c"),
    *("<img·src=x>", "$x^2$", "日本", "↵"),
]


def inspected() -> Inspection:
    model = tiny_gpt(vocab_size=len(HOSTILE), n_heads=3, d_model=12, tie_head=False, init=textbook)
    return analyze(model, list(range(len(HOSTILE))), top_k=4)


class Reader(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.hidden: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.data: dict[str, Any] = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attributes]
        assert not {name for name in names if name in ("src", "href") or name.startswith("on")}
        if "hidden" in names:
            self.hidden.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data


def written(inspection: Inspection) -> str:
    texts = dict(enumerate(HOSTILE))
    return page(inspection, texts, facts={"model": "<b>bold</b>"}, vocab_size=len(texts))


def test_it_asks_nobody_for_anything_and_hostile_tokens_are_text() -> None:
    text = written(inspected())
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|<link|innerHTML", text)
    assert "default-src 'none'" in text
    reader = Reader(text)
    assert len(reader.scripts) == 2
    assert not {"img", "b"} & {*reader.tags}
    assert reader.data["tokens"] == HOSTILE


@pytest.mark.parametrize("causal", [True, False])
def test_the_script_gets_what_was_seen(causal: bool) -> None:
    inspection = replace(inspected(), causal=causal)
    reader = Reader(written(inspection))
    data = reader.data
    assert reader.hidden == (["p"] if causal else []), "a note on losses of models that are not causal"
    torch.testing.assert_close(torch.tensor(data["losses"][1:]), inspection.losses, atol=1e-3, rtol=0)
    for name, ids in {"next": inspection.next_ids, "lens": inspection.layer_ids}.items():
        assert [[text for text, _ in row] for row in data[name]] == [[HOSTILE[i] for i in row] for row in ids.tolist()]
    encoded = torch.frombuffer(bytearray(base64.b64decode(data["attention"])), dtype=torch.uint8)
    assert inspection.attention is not None
    expected = inspection.attention.flatten()
    torch.testing.assert_close(encoded / 255, expected, atol=0.5 / 255 + 1e-6, rtol=0)


def test_what_a_model_lacks_is_hidden() -> None:
    whole = inspected()
    final = {name: getattr(whole, name)[-1:] for name in ("layer_ids", "layer_probabilities", "layer_losses")}
    reader = Reader(written(replace(whole, attention=None, **final)))
    assert reader.hidden.count("section") == 2
    assert "attention" not in reader.data


@pytest.mark.parametrize("sizes", [(1, 1, 1), (20, 16, 3)])
def test_maps_of_every_size_are_drawn_without_a_warning(sizes: tuple[int, int, int]) -> None:
    n_layers, n_heads, n_tokens = sizes
    weights = torch.ones(n_layers, n_heads, n_tokens, n_tokens).tril()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        height, width, colours = pixels(attention_grid(weights.numpy(), "$\U000e0001" * 150, causal=True)).shape
    assert colours == 3
    assert 400 < width < 2500
    assert 100 < height < 2500


def test_a_map_is_where_its_layer_and_head_say() -> None:
    attention = torch.eye(4).expand(2, 3, 4, 4).clone()
    attention[1, 2] = torch.tensor([1.0, 0, 0, 0])  # all attend to the first
    for causal in (True, False):
        shown = attention_grid(attention.numpy(), "", causal=causal).axes[0].images[0].get_array()
        step = 5  # four tokens and a gap
        assert shown[step : step + 4, 2 * step].tolist() == [1.0] * 4
        assert shown[0:4, 0].tolist() == [1.0, 0.0, 0.0, 0.0]
        assert (shown[0, 1] == 0) is not causal, "the future of causal models is blank"
