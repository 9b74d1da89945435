"""Texts with labels: the kind of data for classification."""

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from gptlab.data.base import Data, PreparedData, Progress, TokenizerFactory
from gptlab.data.splits import split
from gptlab.data.table import Row, read_table
from gptlab.errors import UserError
from gptlab.objective import Batch
from gptlab.objective.base import IGNORED
from gptlab.tokenizer import Tokenizer

PARTS = {"training": 0.7, "validation": 0.1, "test": 0.2}


class Text(NamedTuple):
    """A row of the table: its place, for messages, and what it holds."""

    where: str
    text: str
    label: str


@dataclass(frozen=True)
class LabelledTexts:
    """One split: the ids of each text, and the number of its label."""

    ids: list[list[int]]
    labels: list[int]
    padding: int

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: np.ndarray) -> Batch:
        """Tokens, padded on the right to the longest text (B, T); lengths (B,); labels (B,)."""
        rows = [torch.tensor(self.ids[index]) for index in indices] or [torch.tensor([self.padding])]  # see `Examples`
        labels = [self.labels[index] for index in indices] or [IGNORED]
        tokens = pad_sequence(rows, batch_first=True, padding_value=self.padding)
        return tokens, torch.tensor([*map(len, rows)]), torch.tensor(labels)


class Classification(Data):
    """A table of texts, split at random with equal shares of the labels; identical texts are in the same part.

    Args:
        path: see `read_table`. A tsv or csv file without a header is label, text.
        text, label: names of the columns.
        balance: undersample keeps as many texts of each label as of the rarest one, none keeps all.
        seed: of the undersampling and the split.
    """

    unit, num_workers = "text", 0

    def __init__(self, *, path: str, text: str, label: str, balance: Literal["undersample", "none"], seed: int) -> None:
        if text == label:
            raise ValueError(f"text and label are both {text}: name two columns")
        self.name = path
        self.text, self.label, self.balance, self.seed = text, label, balance, seed

    def prepare(
        self, tokenizer: Tokenizer | TokenizerFactory, *, context_length: int, progress: Progress
    ) -> PreparedData:
        """The tokenizer is trained on all texts, without labels. A text longer than the context loses its end."""
        every = [*map(self._read, read_table(self.name, headerless=(self.label, self.text)))]
        texts = self._balanced(every)
        parts = self._split(texts)
        labels = sorted({text.label for text in parts["training"]})
        if isinstance(tokenizer, partial):
            tokenizer = tokenizer(text.text for text in texts)
        ids = {name: [_ids(text, tokenizer, labels) for text in part] for name, part in parts.items()}
        n_cut = sum(len(row) > context_length for part in ids.values() for row in part)
        train, val, test = (
            LabelledTexts(
                [row[:context_length] for row in ids[name]],
                [labels.index(text.label) for text in part],
                tokenizer.eot or 0,
            )
            for name, part in parts.items()
        )
        lines = [
            f"{self.name}: {len(every):,} texts ({_counts(every)}), {len(texts):,} with data.balance={self.balance}",
            *(f"  {name:11}{len(part):>6,} texts ({_counts(part)})" for name, part in parts.items()),
            f"  {n_cut:,} texts are cut to context_length={context_length}",
            _baselines(parts["training"], parts["test"]),
        ]
        return PreparedData(
            name=self.name,
            tokenizer=tokenizer,
            fingerprint=hashlib.sha256(json.dumps([text[1:] for text in every]).encode()).hexdigest(),
            description="\n".join(lines),
            train=train,
            val=val,
            test=test,
            val_bytes_per_token=None,
            prompt=min((text.text for text in parts["validation"]), key=lambda text: abs(len(text) - 60)),
            labels=labels,
        )

    def _read(self, row: Row) -> Text:
        label = row.columns.get(self.label)
        return Text(row.where, row.text(self.text), str(label) if type(label) is int else row.text(self.label))

    def _balanced(self, texts: list[Text]) -> list[Text]:
        labels = np.array([text.label for text in texts])
        names, counts = np.unique(labels, return_counts=True)
        if not 2 <= len(names) <= max(2, len(texts) / 2):
            advice = f"are {self.text} and {self.label} its columns (data.text, data.label)?"
            raise UserError(f"{self.name} has {len(names):,} labels in {len(texts):,} texts ({names[0]} ...): {advice}")
        random, n = np.random.default_rng(self.seed), max(counts) if self.balance == "none" else min(counts)
        kept = [random.permutation(np.flatnonzero(labels == name))[:n] for name in names]
        return [texts[index] for index in sorted(np.concatenate(kept))]

    def _split(self, texts: list[Text]) -> dict[str, list[Text]]:
        keys, labels = [text.text for text in texts], [text.label for text in texts]
        indices = split(keys, [*PARTS.values()], seed=self.seed, strata=labels)
        parts = {name: [texts[index] for index in part] for name, part in zip(PARTS, indices, strict=True)}
        for name, part in parts.items():
            if not part:
                raise UserError(f"{self.name} is too small: its texts ({_counts(texts)}) leave none for {name}")
        return parts


def _ids(text: Text, tokenizer: Tokenizer, labels: list[str]) -> list[int]:
    if text.label not in labels:
        raise UserError(f"{text.where}: no training text has the label {text.label} (they have {', '.join(labels)})")
    try:
        return tokenizer.encode(text.text)
    except ValueError as error:
        raise UserError(f"{text.where}: {error}") from None


def _counts(texts: list[Text]) -> str:
    return ", ".join(f"{label} {n:,}" for label, n in sorted(Counter(text.label for text in texts).items()))


def _baselines(train: list[Text], test: list[Text]) -> str:
    usual, labels = Counter(text.label for text in train).most_common(1)[0][0], np.array([text.label for text in test])
    majority, bayes = np.mean(labels == usual), np.mean(labels == naive_bayes(train, test))
    return f"  test accuracy of baselines: always {usual} {majority:.2%}, naive Bayes over words {bayes:.2%}"


def naive_bayes(train: Sequence[Text], unseen: Sequence[Text]) -> list[str]:
    """Labels of unseen texts: multinomial, over lower-case words and punctuation, with one added to each count."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text in train:
        counts[text.label].update(_words(text))
    n_words, priors = len(set().union(*counts.values())), Counter(text.label for text in train)
    totals = {label: its.total() + n_words for label, its in counts.items()}

    def score(label: str, words: list[str]) -> float:
        return math.log(priors[label]) + sum(math.log((counts[label][word] + 1) / totals[label]) for word in words)

    return [max(priors, key=partial(score, words=_words(text))) for text in unseen]


def _words(text: Text) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.text.lower())
