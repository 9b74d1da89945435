"""The text of a run: its tokens, and the two parts that they are cut into."""

import logging
from dataclasses import dataclass

from gptlab import build
from gptlab.data.corpus import Corpus, GivenTokenizer, TokenizerRecipe, prepare
from gptlab.data.windows import EveryTarget, WindowDataset, split
from gptlab.settings import Settings
from gptlab.tokenizer import Tokenizer
from gptlab.training.log import show_pieces

log = logging.getLogger("gptlab")


@dataclass(frozen=True)
class PreparedData:
    """A corpus, and the two parts that it is cut into."""

    corpus: Corpus
    train: WindowDataset
    val: EveryTarget

    @property
    def val_bytes_per_token(self) -> float | None:
        """Of the validation targets, all tokens but the first; None where the tokenizer loses bytes."""
        lengths = self.corpus.tokenizer.byte_lengths
        return None if lengths is None else self.val.n_bytes(lengths) / (len(self.val.tokens) - 1)

    def prompt(self) -> str:
        """Words that this run's tokenizer is sure to know, for a command to paste."""
        from gptlab.training.callbacks.samples import first_words

        return self.corpus.tokenizer.decode(first_words(self.val.tokens, self.corpus.tokenizer))


def prepare_data(config: build.Config, settings: Settings, tokenizer: Tokenizer | None) -> PreparedData:
    """The tokens of the text, by a tokenizer that came with weights, or by one that is trained on it."""
    log.info("preparing the text")
    knobs = build.data_settings(config)
    source = build.source(config)
    recipe = TokenizerRecipe(*build.tokenizer_class(config)) if tokenizer is None else GivenTokenizer(tokenizer)
    corpus = prepare(source, recipe, cache_dir=knobs.cache_dir, progress=show_pieces)
    train_windows, val_windows = split(
        corpus.tokens,
        context_length=settings.context_length,
        stride=knobs.stride if knobs.stride is not None else settings.context_length,
        val_fraction=knobs.val_fraction,
        name=source.name,
    )
    log.info(
        "%s: %s tokens (%s for validation), vocabulary %s",
        *(source.name, f"{len(corpus.tokens):,}", f"{len(val_windows.tokens):,}"),
        f"{corpus.tokenizer.vocab_size:,}",
    )
    return PreparedData(corpus, train_windows, val_windows)
