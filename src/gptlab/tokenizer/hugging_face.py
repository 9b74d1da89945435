"""A tokenizer that came with a model, in the one-file format of the `tokenizers` library."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import tokenizers

from gptlab.tokenizer.base import Tokenizer
from gptlab.tokenizer.byte_level import BYTE_OF


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer that a tokenizer.json describes; it is not trained. ValueError if `json` is no such text."""

    def __init__(self, *, json: str, eot: int | None) -> None:
        try:
            self._backend = tokenizers.Tokenizer.from_str(json)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"this is no tokenizer.json: {error}") from None
        self._json = json
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True  # text that spells a special token is text
        self.eot = eot
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.byte_lengths = self._byte_lengths()

    @classmethod
    def train(cls, documents: Iterable[str]) -> Self:
        raise ValueError("a Hugging Face tokenizer comes with a model (init_from=<model>) and is not trained")

    def encode(self, text: str) -> list[int]:
        """Raises ValueError if a closed vocabulary lacks a part of the text."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # a lone surrogate is not Unicode
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"the text has a part that is not in the vocabulary ({error})") from None

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def _byte_lengths(self) -> np.ndarray | None:
        """Known if the text is not normalized, and tokens are spelt in bytes or stand for themselves."""
        decoder = type(self._backend.decoder).__name__
        if self._backend.normalizer is not None or decoder not in ("ByteLevel", "Fuse"):
            return None
        special = {id_ for id_, token in self._backend.get_added_tokens_decoder().items() if token.special}
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, id_ in self._backend.get_vocab(with_added_tokens=True).items():
            in_bytes = decoder == "ByteLevel" and BYTE_OF.keys() >= set(token)
            if id_ not in special:
                lengths[id_] = len(token) if in_bytes else len(token.encode())
        return lengths

    @property
    def unk(self) -> int | None:
        """The id of the token for what the vocabulary lacks; None if there is none."""
        token = getattr(self._backend.model, "unk_token", None)
        return None if token is None else self.id_of(token)

    def id_of(self, token: str) -> int | None:
        """The id of one token as the file spells it, special tokens included."""
        return self._backend.token_to_id(token)

    def state(self) -> dict[str, Any]:
        return {"json": self._json, "eot": self.eot}

    def to_tokenizers(self) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer.from_str(self._json)
        backend.post_processor = None  # it would add tokens around a text
        return backend
