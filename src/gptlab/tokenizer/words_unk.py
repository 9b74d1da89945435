"""Words with a place for the unknown."""

from typing import TYPE_CHECKING

from gptlab.tokenizer.words import WordTokenizer, split_words, word_level

if TYPE_CHECKING:
    import tokenizers


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

    def to_tokenizers(self) -> "tokenizers.Tokenizer | None":
        import tokenizers

        unk, eot = self.special_tokens
        if {unk, eot} & self._id_of.keys():  # the text spells them: the library has no two ids of one name
            return None
        backend = word_level({**self._id_of, unk: self.unk}, unk=unk)
        backend.add_special_tokens([tokenizers.AddedToken(eot, special=True, normalized=False)])
        return backend
