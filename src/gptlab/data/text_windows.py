"""Windows over a text: the kind of data for pretraining. A text source subclasses `TextWindows`."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import regex

from gptlab.data.base import Piece, PreparedData, Progress, TokenizerFactory
from gptlab.data.corpus import Corpus, load_corpus
from gptlab.data.windowed import Windowed
from gptlab.errors import UserError
from gptlab.tokenizer import Tokenizer

SENTENCE_BEGINS = regex.compile(r"(?<=[.!?]\s+)\p{Lu}\p{L}*(?: \p{L}+){1,2}")
SEARCHED_TOKENS, FALLBACK_TOKENS = 4000, 8


class TextWindows(Windowed):
    """A text, cut into windows of `context_length` tokens; the tail of the text is kept for validation.

    Args:
        val_fraction: the share of the tokens that is kept for validation.
        windows: as in `Windowed`; cache_dir is where its tokens are kept.

    Attributes:
        prompt: what samples continue; None for a few words of the validation text.
    """

    prompt: str | None = None

    def __init__(self, *, val_fraction: float, **windows: Any) -> None:
        super().__init__(**windows)
        if not 0 < val_fraction <= 1:
            raise ValueError(f"val_fraction={val_fraction} must be more than 0 and at most 1")
        self.val_fraction = val_fraction

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """The documents in a fixed order, never the whole text at once. UserError if it cannot be read."""

    def fingerprint(self) -> str:
        """Content hash of the text: it reads all of it."""
        text, document = hashlib.sha256(), hashlib.sha256()
        for piece in self.pieces():
            document.update(piece.text.encode("utf-8", "surrogatepass"))
            if piece.ends_document:
                text.update(document.digest())
                document = hashlib.sha256()
        return text.hexdigest()

    def stamp(self) -> list[Any] | None:
        """Plain data that changes if the text may have changed, known without reading it; None if there is none.

        A text of files returns their `file_stamps`, and every setting that decides what is read from them.
        """
        return None

    def prepare(
        self, tokenizer: Tokenizer | TokenizerFactory, *, context_length: int, progress: Progress
    ) -> PreparedData:
        """Raises UserError also if a part is too short for a single window."""
        if self.val_fraction == 1:
            raise UserError("data.val_fraction=1 leaves nothing to train on: use less than 1")
        corpus = load_corpus(self, tokenizer, cache_dir=self.cache_dir, progress=progress)
        n_tokens = len(corpus.tokens)
        n_train = self._n_train(corpus)
        for part, n in {"training": n_train, "validation": n_tokens - n_train}.items():
            if n < context_length + 1:
                raise UserError(
                    f"{self.name} is too short: its {part} part has {n:,} of {n_tokens:,} tokens (data.val_fraction="
                    f"{self.val_fraction}), one window takes context_length + 1 = {context_length + 1:,}"
                )
        train, val = corpus.tokens.part(0, n_train), corpus.tokens.part(n_train, n_tokens)
        n_val_bytes = corpus.n_bytes(n_train + 1, n_tokens)
        return PreparedData(
            name=self.name,
            tokenizer=corpus.tokenizer,
            fingerprint=corpus.fingerprint,
            description=f"{self.name}: {n_tokens:,} tokens ({len(val):,} for validation), "
            f"vocabulary {corpus.tokenizer.vocab_size:,}",
            train=self.training_windows(train, context_length, corpus.tokenizer),
            val=self.validation_windows(val, context_length, corpus.tokenizer),
            test=None,
            val_bytes_per_token=n_val_bytes / (len(val) - 1) if n_val_bytes and self.first_token_loss else None,
            prompt=self.prompt or first_words(val, corpus.tokenizer),
        )

    def evaluated(self, corpus: Corpus) -> tuple[int, int]:
        """Start and stop of the validation text in the corpus; if that is all of it, without its last end-of-text."""
        has_end = self.val_fraction == 1 and corpus.tokenizer.eot is not None
        return self._n_train(corpus), len(corpus.tokens) - has_end

    def _n_train(self, corpus: Corpus) -> int:
        return int(len(corpus.tokens) * (1 - self.val_fraction))


def file_stamps(files: Iterable[Path]) -> list[Any]:
    """Path, size in bytes and time of the last change in nanoseconds of each file."""
    return [[str(file.absolute()), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def first_words(tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    """The words that begin a sentence in the first thousands of tokens (n_tokens,), or else the first words."""
    sentence = SENTENCE_BEGINS.search(tokenizer.decode(tokens[:SEARCHED_TOKENS].tolist()))
    with suppress(ValueError):  # the match may end inside a word, which a vocabulary of words may lack
        if sentence:
            return tokenizer.decode(tokenizer.encode(sentence[0]))
    return tokenizer.decode(tokens[:FALLBACK_TOKENS].tolist())
