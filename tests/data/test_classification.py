"""Labelled texts: what is read, balanced, split, gathered, and said about it."""

import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TEXTS
from gptlab.data.base import PreparedData
from gptlab.data.classification import Classification, Text, naive_bayes
from gptlab.errors import UserError
from gptlab.objective.base import IGNORED
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer

Rows = list[tuple[str, Any]]
SOME: Rows = [(f"{'win' if k % 3 == 0 else 'see you'} {k}", "spam" if k % 3 == 0 else "ham") for k in range(60)]


def prepare(path: Path, rows: Rows | None = None, *, context_length: int = 64, **changes: Any) -> PreparedData:
    if rows is not None:
        path.write_text(json.dumps([{"text": text, "label": label} for text, label in rows]))
    settings = {"path": str(path), "text": "text", "label": "label", "balance": "none", "seed": 1}
    tokenizer = functools.partial(BPETokenizer.train, vocab_size=300)
    data = Classification(**{**settings, **changes})
    return data.prepare(tokenizer, context_length=context_length, progress=lambda _, pieces: pieces)


def texts_of(data: PreparedData, part: str) -> list[str]:
    return [data.tokenizer.decode(ids) for ids in getattr(data, part).ids]


@pytest.mark.skipif(not (TEXTS / "sms-spam-collection.tsv").is_file(), reason="the messages are not there")
def test_the_textbook_s_messages() -> None:
    path = TEXTS / "sms-spam-collection.tsv"
    data = prepare(path, balance="undersample", context_length=256)
    assert "5,574 texts (ham 4,827, spam 747), 1,494 with data.balance=undersample" in data.description
    assert data.labels == ["ham", "spam"]
    assert data.test is not None
    for part, n in ((data.train, 1045), (data.val, 149), (data.test, 300)):
        assert abs(len(part) - n) < 5, "as in the book, up to texts that must stay together"
    sides = [{*texts_of(data, part)} for part in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.sampled_from("ab")), max_size=30), st.integers(0, 3))
def test_a_text_is_on_one_side_only_whatever_its_labels(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]], seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "table.json"
    distinct = [(number, "ab"[number % 2]) for number in range(16, 60)]
    data = prepare(path, [(f"text {number}", label) for number, label in [*rows, *distinct]], seed=seed)
    sides = [{*texts_of(data, part)} for part in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides))


def test_undersampling_keeps_as_many_of_each_label_as_of_the_rarest(tmp_path: Path) -> None:
    data = prepare(tmp_path / "t.json", SOME, balance="undersample")
    assert data.test is not None
    labels = Counter(number for part in (data.train, data.val, data.test) for number in part.labels)
    assert labels == {0: 20, 1: 20}
    other = prepare(tmp_path / "t.json", SOME, balance="undersample", seed=2)
    assert texts_of(other, "train") != texts_of(data, "train")
    assert other.fingerprint == data.fingerprint != prepare(tmp_path / "t.json", SOME[1:]).fingerprint


def test_a_batch_is_padded_on_the_right_and_one_of_nothing_does_not_count(tmp_path: Path) -> None:
    data = prepare(tmp_path / "t.json", SOME, context_length=3)
    tokens, lengths, labels = data.val.batch(np.arange(4))
    for row in range(4):
        ids = data.val.ids[row]  # type: ignore[attr-defined]
        assert tokens[row, : lengths[row]].tolist() == ids
        assert (tokens[row, lengths[row] :] == data.tokenizer.eot).all()
    assert max(lengths) <= 3
    assert "cut to context_length=3" in data.description
    assert labels.tolist() == data.val.labels[:4]  # type: ignore[attr-defined]
    assert [part.tolist() for part in data.val.batch(np.arange(0))[1:]] == [[1], [IGNORED]]


def test_columns_have_names_and_labels_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("stars,review\n" + "".join(f"{k % 2},film {k}\n" for k in range(40)))
    assert prepare(path, text="review", label="stars").labels == ["0", "1"]
    assert prepare(tmp_path / "t.json", [(f"film {k}", k % 2) for k in range(40)]).labels == ["0", "1"]
    with pytest.raises(UserError, match="row 2 has no column text"):
        prepare(path, label="stars")


@pytest.mark.parametrize(
    ("header", "sentence"),
    [("Label,Text", "has no column text; did you mean Text?"), ("stars,review", "401 labels in 401 texts")],
)
def test_a_header_of_other_names_is_no_text(header: str, sentence: str, tmp_path: Path) -> None:
    lines = [f"{k if header == 'stars,review' else 'good'},film {k}" for k in range(400)]
    (tmp_path / "table.csv").write_text("\n".join([header, *lines]))
    with pytest.raises(UserError, match=re.escape(sentence)):
        prepare(tmp_path / "table.csv")
    with pytest.raises(ValueError, match="text and label are both text"):
        prepare(tmp_path / "table.csv", label="text")


REFUSED: dict[str, tuple[Rows, str]] = {
    "empty text": ([*SOME, ("  ", "ham")], "row 61: text is empty"),
    "empty label": ([*SOME, ("hi", "")], "row 61: label is empty"),
    "no text": ([*SOME, (None, "ham")], "row 61: text is null, not a text"),  # type: ignore[list-item]
    "one label": (
        [(f"text {k}", "ham") for k in range(9)],
        "has 1 labels in 9 texts (ham ...)",
    ),
    "too few": ([("a", "ham"), ("b", "spam")], "is too small: its texts (ham 1, spam 1) leave none for validation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_said_with_file_and_row(name: str, tmp_path: Path) -> None:
    rows, sentence = REFUSED[name]
    with pytest.raises(UserError) as error:
        prepare(tmp_path / "table.json", rows)
    assert sentence in str(error.value)
    assert "table.json" in str(error.value)


def test_a_label_that_no_training_text_has_is_refused(tmp_path: Path) -> None:
    rows: Rows = [("same", "ham"), *SOME, ("same", "news")]

    def prepare_until_they_are_in_another_part() -> None:
        for seed in range(40):
            prepare(tmp_path / "table.json", rows, seed=seed)

    with pytest.raises(UserError, match=r"table\.json, row 62: no training text has the label news \(they have ham"):
        prepare_until_they_are_in_another_part()


def test_a_text_that_a_closed_vocabulary_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("".join(f"{label}\t{text}\n" for text, label in SOME))
    settings = {"text": "text", "label": "label", "balance": "none", "seed": 1}
    with pytest.raises(UserError, match=r"t\.tsv, row \d+: "):
        Classification(path=str(tmp_path / "t.tsv"), **settings).prepare(  # type: ignore[arg-type]
            CharTokenizer(characters="win"), context_length=8, progress=lambda _, pieces: pieces
        )
    with pytest.raises(UserError, match=r"data\.path=nowhere\.tsv cannot be read"):
        prepare(Path("nowhere.tsv"))


def test_naive_bayes_multiplies_the_shares_of_words() -> None:
    def bayes(train: dict[str, str], *unseen: str) -> list[str]:
        return naive_bayes([Text("", *pair) for pair in train.items()], [Text("", text, "") for text in unseen])

    train = {"win cash": "spam", "win win": "spam", "see you": "ham", "cash later": "ham"}
    assert bayes(train, "WIN now", "you later", "cash win!") == ["spam", "ham", "spam"]
    assert bayes({"a": "x", "b": "y", "c": "y"}, "unknown") == ["y"]
