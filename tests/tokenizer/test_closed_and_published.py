"""What single tokenizers promise beyond the contract."""

import random

import numpy as np
import pytest
import tokenizers

from conftest import needs_gpt2_vocabulary
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer
from gptlab.tokenizer.gpt2 import GPT2Tokenizer
from gptlab.tokenizer.hugging_face import HuggingFaceTokenizer
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


def test_other_merges_are_not_gpt2s() -> None:
    with pytest.raises(ValueError, match="these 2 merges are not GPT-2's"):
        GPT2Tokenizer(merges="#version: 0.2\nt h\nth e\n")


def test_a_text_that_spells_unk_has_no_other_form() -> None:
    """Two ids would share one name."""
    assert UnknownWordTokenizer.train(["a <|unk|> b"]).to_tokenizers() is None


def test_pairs_that_overlap_are_joined_as_tiktoken_does() -> None:
    """Few letters, long words: where two libraries would differ, if they did."""
    rng = random.Random(0)
    for letters in ("a", "ab", "abc"):
        words = ["".join(rng.choices(letters, k=rng.randint(5, 40))) for _ in range(30)]
        bpe = BPETokenizer.train([" ".join(words)], vocab_size=257 + 60)
        again = bpe.to_tokenizers()
        for _ in range(200):
            text = "".join(rng.choices(letters, k=rng.randint(1, 60)))
            assert again.encode(text).ids == bpe.encode(text)


@pytest.fixture
def with_bos() -> HuggingFaceTokenizer:
    backend = BPETokenizer.train(["the cat sat"], vocab_size=260).to_tokenizers()
    backend.add_special_tokens(["<s>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    return HuggingFaceTokenizer(json=backend.to_str(), eot=None)


def test_a_foreign_tokenizer_adds_cuts_and_pads_nothing(with_bos: HuggingFaceTokenizer) -> None:
    text = "the cat sat <s> on"
    ids = with_bos.encode(text)
    assert with_bos.decode(ids) == text
    assert with_bos.byte_lengths is not None
    assert with_bos.byte_lengths[np.array(ids)].sum() == len(text)


def test_half_a_character_becomes_a_replacement(with_bos: HuggingFaceTokenizer) -> None:
    assert with_bos.decode(with_bos.encode("a\ud800b")) == "a\ufffdb"


def test_a_tokenizer_file_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"this is no tokenizer\.json"):
        HuggingFaceTokenizer(json="{}", eot=None)
