"""The page stands alone, and no token is ever anything but text."""

import base64
import json
import re
from html.parser import HTMLParser

import torch

from gptlab.inspection.look import Inspection, look
from gptlab.inspection.page import page
from gptlab.model.init import textbook
from tiny_gpt import tiny_gpt

HOSTILE = [
    *("<script>alert(1)</script>", "</script>", "{{script}}", "&amp;", '"onload="x', "'", "<!--", "]]>", "\\u003c"),
    *("<img·src=x>", "$x^2$", "日本", "↵"),
]
IDS = list(range(len(HOSTILE)))


def inspected() -> tuple[Inspection, dict[int, str]]:
    model = tiny_gpt(vocab_size=len(HOSTILE), n_heads=3, d_model=12, tie_head=False, init=textbook)
    return look(model, IDS, top_k=4), dict(enumerate(HOSTILE))


def written() -> tuple[str, Inspection]:
    inspection, texts = inspected()
    facts = {"model": "<b>bold</b>"}
    return page(inspection, texts, facts=facts, vocab_size=len(texts), overview=b"png"), inspection


class Reader(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.inside: str | None = None
        self.scripts: list[str] = []
        self.strip: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attributes)
        self.inside = tag if tag != "i" else self.inside
        if tag == "script":
            self.scripts.append("")
        if tag == "button":
            self.strip.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = None if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        if self.inside == "button":
            self.strip[-1] += data


def test_it_asks_nobody_for_anything() -> None:
    text, _ = written()
    reader = Reader()
    reader.feed(text)
    assert reader.addresses == ["data:image/png;base64," + base64.b64encode(b"png").decode()]
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|<link", text)
    assert "default-src 'none'" in text


def test_hostile_tokens_are_text() -> None:
    text, _ = written()
    reader = Reader()
    reader.feed(text)
    assert reader.strip == HOSTILE
    assert len(reader.scripts) == 2
    assert reader.tags.count("img") == 1
    assert "b" not in reader.tags[: reader.tags.index("main")]


def test_the_script_gets_what_was_seen() -> None:
    text, inspection = written()
    reader = Reader()
    reader.feed(text)
    data = json.loads(reader.scripts[0])
    assert data["tokens"] == HOSTILE
    assert data["losses"][0] is None
    torch.testing.assert_close(torch.tensor(data["losses"][1:]), inspection.losses, atol=1e-3, rtol=0)
    assert [[text for text, _ in row] for row in data["next"]] == [
        [HOSTILE[id_] for id_ in row] for row in inspection.next_ids.tolist()
    ]
    bytes_ = torch.frombuffer(bytearray(base64.b64decode(data["attention"])), dtype=torch.uint8)
    rows, columns = torch.tril_indices(len(IDS), len(IDS))
    expected = inspection.attention[:, :, rows, columns].flatten()
    torch.testing.assert_close(bytes_ / 255, expected, atol=0.5 / 255 + 1e-6, rtol=0)
