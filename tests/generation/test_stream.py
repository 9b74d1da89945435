from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.generation.stream import TextStream
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer
from gptlab.tokenizer.words import WordTokenizer

BPE = BPETokenizer.train(["na\u00efve caf\u00e9 \U0001f600 the cat sat on the mat"], vocab_size=280)
WORDS = WordTokenizer.train(["the cat, sat on -- the (mat)."])
LETTERS = CharTokenizer.train(["abcdefgh"])


def stream(tokenizer: Tokenizer, ids: list[int], **settings: object) -> list[str]:
    texts = TextStream(tokenizer, **settings)  # type: ignore[arg-type]
    return [*(texts.feed(id_) for id_ in ids), texts.finish()]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, BPE.vocab_size - 1), max_size=20))
def test_pieces_of_any_bytes_add_up_to_the_decoded_whole(ids: list[int]) -> None:
    assert "".join(stream(BPE, ids)) == BPE.decode(ids)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20))
def test_no_piece_holds_half_a_character(text: str) -> None:
    pieces = stream(BPE, BPE.encode(text.replace("\ufffd", "")))
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, WORDS.vocab_size - 1), max_size=10), st.integers(0, 10))
def test_words_keep_the_space_between_prompt_and_continuation(ids: list[int], cut: int) -> None:
    prompt, new = ids[:cut], ids[cut:]
    assert WORDS.decode(prompt) + "".join(stream(WORDS, new, after=prompt)) == WORDS.decode(ids)


def test_text_comes_as_early_as_a_stop_string_allows() -> None:
    assert stream(LETTERS, LETTERS.encode("abcdefgh"), stop=["def"]) == ["a", "b", "c", "", "", "", "", "", ""]
    assert stream(LETTERS, LETTERS.encode("abde"), stop=["def"]) == ["a", "b", "", "", "de"]


@settings(max_examples=100, deadline=None)
@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stopping_equals_cutting_the_whole_text(text: str, stops: list[str]) -> None:
    found = []
    for end in range(len(text) + 1):  # the first moment at which some stop string is complete
        found = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if found:
            break
    expected = text[: min(found)] if found else text
    assert "".join(stream(LETTERS, LETTERS.encode(text), stop=stops)) == expected
