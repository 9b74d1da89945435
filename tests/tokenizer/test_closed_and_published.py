"""What single tokenizers promise beyond the contract."""

import numpy as np
import pytest
import tokenizers

from conftest import needs_gpt2_vocabulary
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.gpt2 import GPT2Tokenizer
from gptlab.tokenizer.hugging_face import HuggingFaceTokenizer
from gptlab.tokenizer.words import WordTokenizer, split_words
from gptlab.tokenizer.words_unk import UnknownWordTokenizer


def test_words_and_punctuation_are_split_as_in_the_textbook() -> None:
    assert split_words("Hello, world. Is this-- a test?") == [
        *("Hello", ",", "world", ".", "Is", "this", "--", "a", "test", "?")
    ]


def test_unknown_word_is_named() -> None:
    with pytest.raises(ValueError, match="word 'dog' is not among the 3 words"):
        WordTokenizer.train(["the cat sat"]).encode("the dog sat")


def test_unknown_word_becomes_unk_and_no_space_precedes_punctuation() -> None:
    tokenizer = UnknownWordTokenizer.train(["the cat, it sat."])
    assert tokenizer.decode(tokenizer.encode("the dog , it sat .")) == "the <|unk|>, it sat."


@needs_gpt2_vocabulary
def test_gpt2_ids_are_the_published_ones() -> None:
    tokenizer = GPT2Tokenizer()
    assert tokenizer.encode("Hello, I am") == [15496, 11, 314, 716]
    assert (tokenizer.vocab_size, tokenizer.eot) == (50257, 50256)


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
    assert with_bos.decode(with_bos.encode("a\ud800b")) == "a\ufffdb", "half a character becomes a replacement"
