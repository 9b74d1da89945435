"""Words with a place for the unknown."""

from gptlab.tokenizer.words import WordTokenizer, split_words


class UnknownWordTokenizer(WordTokenizer):
    """`WordTokenizer` plus `<|unk|>`, which stands for every word that the training text lacks, and `<|endoftext|>`.

    The two special tokens have ids of their own behind the words': a text that spells `<|unk|>` is still a text.
    """

    special_tokens = ("<|unk|>", "<|endoftext|>")

    @property
    def unk(self) -> int:
        return len(self.words)

    @property
    def eot(self) -> int:  # type: ignore[override]
        return len(self.words) + 1

    def encode(self, text: str) -> list[int]:
        return [self._id_of.get(word, self.unk) for word in split_words(text)]
