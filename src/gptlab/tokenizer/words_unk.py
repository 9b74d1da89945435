"""Words with a place for the unknown."""

import tokenizers

from gptlab.tokenizer.words import WordTokenizer, split_words, word_level


class UnknownWordTokenizer(WordTokenizer):
    """`WordTokenizer` plus `<|unk|>`, which stands for every word that the training text lacks, and `<|endoftext|>`.

    The two special tokens have ids of their own after those of the words: a text that spells `<|unk|>` is still text.
    """

    special_tokens = ("<|unk|>", "<|endoftext|>")

    def __init__(self, *, words: list[str]) -> None:
        super().__init__(words=words)
        self.unk = len(words)
        self.eot = len(words) + 1

    def encode(self, text: str) -> list[int]:
        return [self._id_of.get(word, self.unk) for word in split_words(text)]

    def to_tokenizers(self) -> tokenizers.Tokenizer | None:
        unk, eot = self.special_tokens
        if {unk, eot} & self._id_of.keys():  # the text spells them: the library has no two ids of one name
            return None
        backend = word_level({**self._id_of, unk: self.unk}, unk=unk)
        backend.add_special_tokens([tokenizers.AddedToken(eot, special=True, normalized=False)])
        return backend
