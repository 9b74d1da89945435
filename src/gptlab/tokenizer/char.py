"""One token a character."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import tokenizers


class CharTokenizer:
    """The smallest vocabulary that loses nothing of the text that it was built from.

    >>> tokenizer = CharTokenizer.train(["hello"])
    >>> tokenizer.characters, tokenizer.encode("hole")
    ('ehlo', [1, 3, 2, 0])
    """

    eot = None

    def __init__(self, *, characters: str) -> None:
        self.characters = characters
        self._id_of = {character: id_ for id_, character in enumerate(characters)}

    @classmethod
    def train(cls, documents: Iterable[str]) -> Self:
        """Every character that occurs, in code point order."""
        return cls(characters="".join(sorted(set().union(*documents))))

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    @property
    def byte_lengths(self) -> np.ndarray:
        return np.array([len(c.encode("utf-8", "surrogatepass")) for c in self.characters], dtype=np.int64)

    def encode(self, text: str) -> list[int]:
        """Raises ValueError on a character that the training text lacks."""
        try:
            return [self._id_of[character] for character in text]
        except KeyError as error:
            raise ValueError(
                f"the character {error.args[0]!r} is not in the vocabulary: the training text has "
                f"{self.vocab_size} characters, and tokenizer=char knows no others (tokenizer=bpe takes any text)"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join([self.characters[id_] for id_ in ids])

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(**state)

    def to_tokenizers(self) -> "tokenizers.Tokenizer":
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab=self._id_of))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return tokenizer
