"""Tables of examples, and their splits."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import TEXTS
from gptlab.data.splits import split
from gptlab.data.table import read_table
from gptlab.errors import UserError

ROWS = [{"text": 'he said "no', "label": "ham"}, {"text": "win, now", "label": "spam"}]


def as_csv(rows: list[dict]) -> str:
    return "label,text\n" + "".join(f'{row["label"]},"{row["text"].replace(chr(34), chr(34) * 2)}"\n' for row in rows)


WRITERS: dict[str, Callable[[list[dict]], str]] = {
    ".tsv": lambda rows: "".join(f"{row['label']}\t{row['text']}\n" for row in rows),
    ".csv": as_csv,
    ".json": json.dumps,
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n\n" for row in rows),
}


@pytest.mark.parametrize("suffix", [*WRITERS, ".parquet"])
def test_every_format_reads_the_same_rows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_text(WRITERS[suffix](ROWS))
    rows = read_table(str(path), headerless=("label", "text"))
    assert [row.columns for row in rows] == ROWS


REFUSED = {
    "no.txt": ("", "must end in .tsv, .csv"),
    "empty.json": ("[]", "holds no rows"),
    "bad.json": ("[{", "after 0 rows: Expecting property name"),
    "object.json": ("{}", "a list of objects was expected"),
    "bad.jsonl": ('{"text": "a", "label": "b"}\n{oops', "after 1 rows: Expecting property name"),
    "numbers.jsonl": ("1\n", "row 1 is no object"),
    "quotes.csv": ('label,text\nham,"a"b\n', "after 0 rows: ',' expected"),
    "ragged.tsv": ("ham\ta\nham\tb\tc\n", "row 2 has 3 cells, not 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_used_is_said_with_file_and_row(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(REFUSED[name][0])
    with pytest.raises(UserError) as error:
        read_table(str(tmp_path / name), headerless=("label", "text"))
    assert REFUSED[name][1] in str(error.value)
    assert name in str(error.value)


def test_a_column_that_holds_no_text_is_said_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(json.dumps([{"txt": "a", "number": 3, "blank": " "}]))
    (row,) = read_table(str(tmp_path / "table.json"))
    assert row.text("txt") == "a"
    for column, sentence in {
        "text": "row 1 has no column text; did you mean txt?",
        "number": "row 1: number is 3, not a text",
        "blank": "row 1: blank is empty",
    }.items():
        with pytest.raises(UserError, match=re.escape(sentence)):
            row.text(column)


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(f"text,label\n{'a' * 200_000},b\n")
    (row,) = read_table(str(tmp_path / "table.csv"), headerless=("label", "text"))
    assert len(row.text("text")) == 200_000


@pytest.mark.skipif(not (TEXTS / "sms-spam-collection.tsv").is_file(), reason="the messages are not there")
def test_quotes_are_text_in_a_tsv() -> None:
    rows = read_table(str(TEXTS / "sms-spam-collection.tsv"), headerless=("label", "text"))
    labels = [row.columns["label"] for row in rows]
    assert (len(rows), labels.count("ham"), labels.count("spam")) == (5574, 4827, 747)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=80), st.integers(0, 3))
def test_a_split_has_every_row_once_and_equal_keys_together(rows: list[tuple[int, bool]], seed: int) -> None:
    keys = [(number, label) for number, label in rows]
    parts = split(keys, (0.7, 0.1, 0.2), seed=seed, strata=[label for _, label in rows])
    assert sorted(index for part in parts for index in part) == list(range(len(rows)))
    sides = [{keys[index] for index in part} for part in parts]
    assert sum(map(len, sides)) == len(set(keys))


def test_a_split_keeps_the_proportions_of_its_strata() -> None:
    labels = ["ham"] * 300 + ["spam"] * 100
    train, val, test = split(range(400), (0.7, 0.1, 0.2), seed=1, strata=labels)
    assert [len(train), len(val), len(test)] == [280, 40, 80]
    assert sum(labels[index] == "spam" for index in test) == 20
