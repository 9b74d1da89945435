"""One token a character."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gptlab.tokenizer.base import Tokenizer


class CharTokenizer(Tokenizer):
    """The characters of the training text: the smallest vocabulary that loses nothing of it.

    >>> tokenizer = CharTokenizer.train(["hello"])
    >>> tokenizer.characters, tokenizer.encode("hole")
    ('ehlo', [1, 3, 2, 0])
    """

    def __init__(self, *, characters: str) -> None:
        self.characters = characters
        self.vocab_size = len(characters)
        self.byte_lengths = np.array([len(c.encode("utf-8", "surrogatepass")) for c in characters], dtype=np.int64)
        self._id_of = {character: id_ for id_, character in enumerate(characters)}

    @classmethod
    def train(cls, documents: Iterable[str]) -> Self:
        """Every character that occurs, in code point order."""
        return cls(characters="".join(sorted(set().union(*documents))))

    def encode(self, text: str) -> list[int]:
        """Raises ValueError on a character that the training text lacks."""
        try:
            return [self._id_of[character] for character in text]
        except KeyError as error:
            raise ValueError(
                f"the character {error.args[0]!r} is not in the vocabulary, the {self.vocab_size} characters of the "
                f"training text (tokenizer=bpe takes any text)"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join([self.characters[id_] for id_ in ids])

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters}

    def to_tokenizers(self) -> tokenizers.Tokenizer:
        tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab=self._id_of))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return tokenizer
