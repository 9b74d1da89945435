import numpy as np

from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer
from gptlab.training.callbacks.samples import first_words


def test_the_prompt_is_the_beginning_of_a_sentence() -> None:
    tokenizer = BPETokenizer.train([], vocab_size=257)
    tokens = np.array(tokenizer.encode("...end of one.\n\nThe next \u00e9tude begins. And"), dtype=np.uint16)
    assert tokenizer.decode(first_words(tokens, tokenizer)) == "The next \u00e9tude"


def test_without_a_sentence_it_is_the_first_tokens() -> None:
    tokenizer = CharTokenizer.train(["abc def ghi"])
    tokens = np.array(tokenizer.encode("abc def ghi"), dtype=np.uint16)
    assert tokenizer.decode(first_words(tokens, tokenizer)) == "abc def "
