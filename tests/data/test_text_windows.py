from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conftest import POEM
from gptlab.data.base import Piece, PreparedData
from gptlab.data.text_windows import TextWindows, first_words
from gptlab.errors import UserError
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer
from gptlab.tokenizer.words import WordTokenizer

SETTINGS = {"stride": None, "val_fraction": 0.1, "num_workers": 0}


class Text(TextWindows):
    """A text source of one's own."""

    name = "a text"

    def __init__(self, text: str, cache_dir: Path, **changes: float) -> None:
        super().__init__(**{**SETTINGS, **changes}, cache_dir=str(cache_dir))  # type: ignore[arg-type]
        self.text = text

    def pieces(self) -> Iterator[Piece]:
        yield Piece(self.text, ends_document=True)


def prepare(data: TextWindows, context_length: int, tokenizer: type = CharTokenizer) -> PreparedData:
    return data.prepare(partial(tokenizer.train), context_length=context_length, progress=lambda what, pieces: pieces)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 400), st.integers(1, 20), st.floats(0.05, 0.9))
def test_no_window_crosses_the_split(
    tmp_path_factory: pytest.TempPathFactory, n_tokens: int, context_length: int, val_fraction: float
) -> None:
    n_val = n_tokens - int(n_tokens * (1 - val_fraction))
    assume(min(n_val, n_tokens - n_val) > context_length)
    text = "".join(chr(0x4E00 + i) for i in range(n_tokens))  # token i is number i
    data = prepare(Text(text, tmp_path_factory.mktemp("cache"), stride=1, val_fraction=val_fraction), context_length)
    train, val = data.train, data.val
    border = n_tokens - n_val
    assert train.batch(np.arange(len(train)))[1].max() < border
    assert val.batch(np.arange(len(val)))[0].min() >= border
    assert data.val_bytes_per_token == 3


def test_what_is_said_of_a_text(tmp_path: Path) -> None:
    data = prepare(Text(POEM * 40, tmp_path), context_length=16)
    n_tokens, n_characters = len(POEM * 40), len(set(POEM))
    n_val = n_tokens - int(n_tokens * 0.9)
    assert data.description == f"a text: {n_tokens:,} tokens ({n_val:,} for validation), vocabulary {n_characters}"
    assert data.prompt == "It sits looking"
    assert (data.name, data.test) == ("a text", None)
    assert prepare(Text(POEM * 40, tmp_path), 16, WordTokenizer).val_bytes_per_token is None


def test_too_short_a_text_is_told_in_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"validation part has 10 of 100 tokens .* context_length \+ 1 = 17"):
        prepare(Text("a" * 100, tmp_path), context_length=16)
    with pytest.raises(UserError, match=r"data\.val_fraction=1 leaves nothing to train on"):
        prepare(Text("a" * 100, tmp_path, val_fraction=1), context_length=16)


def test_the_hash_of_a_text_does_not_depend_on_how_it_is_cut(tmp_path: Path) -> None:
    class InHalves(Text):
        def pieces(self) -> Iterable[Piece]:  # type: ignore[override]
            return [Piece(self.text[:9], ends_document=False), Piece(self.text[9:], ends_document=True)]

    assert InHalves(POEM, tmp_path).fingerprint() == Text(POEM, tmp_path).fingerprint()
    assert Text(POEM, tmp_path).fingerprint() != Text(POEM + " ", tmp_path).fingerprint()


def test_the_prompt_is_the_beginning_of_a_sentence() -> None:
    tokenizer = BPETokenizer.train([], vocab_size=257)
    tokens = np.array(tokenizer.encode("...end of one.\n\nThe next \u00e9tude begins. And"))
    assert first_words(tokens, tokenizer) == "The next \u00e9tude"
    without_sentence = np.array(tokenizer.encode("abc def ghi"))
    assert first_words(without_sentence, tokenizer) == "abc def "
