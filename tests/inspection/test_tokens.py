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


def test_spaces_and_line_breaks_can_be_seen() -> None:
    assert visible("a b\n\tc") == "a·b↵⇥c"


def test_half_characters_are_bytes() -> None:
    assert shown("é") == ["\\xc3", "\\xa9"]


def test_what_decodes_to_nothing_is_its_id() -> None:
    class Silent(CharTokenizer):
        def decode(self, ids: object) -> str:
            return ""

    assert token_texts(Silent(characters="ab"), [1]) == {1: "<1>"}


def test_a_replacement_character_that_was_typed_stays() -> None:
    characters = CharTokenizer.train(["a\ufffd"])
    assert token_texts(characters, [0, 1]) == {0: "a", 1: "\ufffd"}


@settings(max_examples=60, deadline=None)
@given(st.text() | st.sampled_from(HARD))
def test_every_token_of_every_text_can_be_seen(text: str) -> None:
    for token in shown(text):
        assert token
        assert token.isprintable()
        assert " " not in token
