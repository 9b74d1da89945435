"""Readable token texts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import HARD, POEM
from gptlab.inspection.tokens import token_texts, visible
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer

BPE = BPETokenizer.train([POEM], vocab_size=280)


def shown(text: str) -> list[str]:
    ids = BPE.encode(text)
    texts = token_texts(BPE, ids)
    return [texts[id_] for id_ in ids]


def test_spaces_line_breaks_and_half_characters_can_be_seen() -> None:
    assert visible("a b\n\tc") == "a·b↵⇥c"
    assert shown("é") == ["\\xc3", "\\xa9"]
    characters = CharTokenizer.train(["a\ufffd"])
    assert token_texts(characters, [0, 1]) == {0: "a", 1: "\ufffd"}, "a replacement character that was typed"


@settings(max_examples=60, deadline=None)
@given(st.text() | st.sampled_from(HARD))
def test_every_token_of_every_text_can_be_seen(text: str) -> None:
    for token in shown(text):
        assert token
        assert token.isprintable()
        assert " " not in token
