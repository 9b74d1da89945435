"""What single tokenizers promise beyond the contract."""

import pytest

from conftest import needs_gpt2_vocabulary
from gptlab.tokenizer.char import CharTokenizer
from gptlab.tokenizer.gpt2 import GPT2Tokenizer
from gptlab.tokenizer.words import WordTokenizer, split_words
from gptlab.tokenizer.words_unk import UnknownWordTokenizer


def test_unknown_character_is_named() -> None:
    with pytest.raises(ValueError, match="character 'z' is not in the vocabulary"):
        CharTokenizer.train(["abc"]).encode("abz")


def test_words_and_punctuation_are_split_as_in_the_textbook() -> None:
    assert split_words("Hello, world. Is this-- a test?") == [
        *("Hello", ",", "world", ".", "Is", "this", "--", "a", "test", "?")
    ]


def test_unknown_word_is_named() -> None:
    with pytest.raises(ValueError, match="word 'dog' is not among the 3 words"):
        WordTokenizer.train(["the cat sat"]).encode("the dog sat")


def test_unknown_word_becomes_unk() -> None:
    tokenizer = UnknownWordTokenizer.train(["the cat sat"])
    assert tokenizer.decode(tokenizer.encode("the dog sat")) == "the <|unk|> sat"


def test_words_decode_without_a_space_before_punctuation() -> None:
    tokenizer = WordTokenizer.train(['"Yes," he said -- (twice).'])
    assert tokenizer.decode(tokenizer.encode("he said , twice .")) == "he said, twice."


@needs_gpt2_vocabulary
def test_gpt2_ids_are_the_published_ones() -> None:
    tokenizer = GPT2Tokenizer()
    assert tokenizer.encode("Hello, I am") == [15496, 11, 314, 716]
    assert (tokenizer.vocab_size, tokenizer.eot) == (50257, 50256)


def test_gpt2_without_cache_and_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    import tiktoken.load
    import tiktoken.registry

    def refuse(url: str) -> bytes:
        raise ConnectionError(url)

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file", refuse)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(ValueError, match=r"not in tiktoken's cache .* TIKTOKEN_CACHE_DIR"):
        GPT2Tokenizer()
