"""Words and punctuation by a regular expression: the first tokenizer of the textbook."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Self

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gptlab.tokenizer.base import Tokenizer

# Build a Large Language Model (From Scratch), chapter 2: punctuation and double dashes are tokens of their own.
BOUNDARY = re.compile(r'([,.:;?_!"()\']|--|\s)')
WHITE_SPACE = r"[\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
"""Python's `\\s`, spelt out for libraries that have another idea of it."""
SPACE_BEFORE_PUNCTUATION = re.compile(r'\s+([,.:;?_!"()\'])')


def split_words(text: str) -> list[str]:
    """Words and punctuation of a text.

    >>> split_words("Hello, world--again!")
    ['Hello', ',', 'world', '--', 'again', '!']
    """
    return [part for part in BOUNDARY.split(text) if part and not part.isspace()]


class WordTokenizer(Tokenizer):
    """A closed vocabulary of the words that the training text has.

    Decoding writes one space between words and none before punctuation: `encode(decode(ids)) == ids`, but the original
    white space is lost.
    """

    special_tokens: tuple[str, ...] = ()

    def __init__(self, *, words: list[str]) -> None:
        self.words = words
        self.vocab_size = len(words) + len(self.special_tokens)
        self._id_of = {word: id_ for id_, word in enumerate(words)}

    @classmethod
    def train(cls, documents: Iterable[str]) -> Self:
        """Every distinct word, sorted."""
        return cls(words=sorted(set().union(*map(split_words, documents))))

    def encode(self, text: str) -> list[int]:
        """Raises ValueError on a word that the training text lacks."""
        try:
            return [self._id_of[word] for word in split_words(text)]
        except KeyError as error:
            raise ValueError(
                f"the word {error.args[0]!r} is not among the {len(self.words):,} words of the vocabulary "
                f"(tokenizer=words_unk maps unknown words to <|unk|>, tokenizer=bpe takes any text)"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        vocabulary = [*self.words, *self.special_tokens]
        return SPACE_BEFORE_PUNCTUATION.sub(r"\1", " ".join([vocabulary[id_] for id_ in ids]))

    def state(self) -> dict[str, Any]:
        return {"words": self.words}

    def to_tokenizers(self) -> tokenizers.Tokenizer | None:
        return word_level(self._id_of, unk=None)


def word_level(id_of: dict[str, int], *, unk: str | None) -> tokenizers.Tokenizer:
    """Words and punctuation for the `tokenizers` library; `unk` is the word that stands for unknown ones."""
    known = {} if unk is None else {"unk_token": unk}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab=id_of, **known))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WHITE_SPACE), "removed"),
            pre_tokenizers.Split(tokenizers.Regex(r'[,.:;?_!"()\']|--'), "isolated"),
        ]
    )
    no_prefix = "\n"  # no word begins with white space, so a space goes in front of each
    one_space = decoders.WordPiece(prefix=no_prefix, cleanup=False)
    none_before = [decoders.Replace(f" {sign}", sign) for sign in ",.:;?_!\"()'"]
    tokenizer.decoder = decoders.Sequence([one_space, decoders.Fuse(), *none_before])
    return tokenizer
