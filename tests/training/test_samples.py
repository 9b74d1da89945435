import numpy as np

from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer
from gptlab.tokenizer.words import WordTokenizer
from gptlab.training.callbacks.samples import first_words


def test_the_prompt_is_the_beginning_of_a_sentence() -> None:
    tokenizer = BPETokenizer.train([], vocab_size=257)
    tokens = np.array(tokenizer.encode("...end of one.\n\nThe next \u00e9tude begins. And"), dtype=np.uint16)
    assert tokenizer.decode(first_words(tokens, tokenizer)) == "The next \u00e9tude"


def test_words_that_end_inside_of_a_word_are_not_asked_for() -> None:
    tokenizer = WordTokenizer.train(["It ended. The well-known man slept."])
    tokens = np.array(tokenizer.encode("It ended. The well-known man slept."), dtype=np.uint16)
    assert tokenizer.decode(first_words(tokens, tokenizer)).startswith("It ended.")


def test_without_a_sentence_it_is_the_first_tokens() -> None:
    tokenizer = CharTokenizer.train(["abc def ghi"])
    tokens = np.array(tokenizer.encode("abc def ghi"), dtype=np.uint16)
    assert tokenizer.decode(first_words(tokens, tokenizer)) == "abc def "
