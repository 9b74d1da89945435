"""Tables of examples: tsv, csv, json, jsonl and parquet files as rows of named columns."""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.arguments import nearest
from gptlab.errors import UserError

FORMATS = (".tsv", ".csv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row: its place in the file, for messages, and its columns."""

    where: str  # "sms.tsv, row 17"
    columns: dict[str, Any]

    def text(self, column: str) -> str:
        """The text in a column. Raises UserError if there is no such column, or nothing or something else in it."""
        if column not in self.columns:
            known = ", ".join(map(str, self.columns))
            raise UserError(f"{self.where} has no column {column}{nearest(column, self.columns)} (it has {known})")
        value = self.columns[column]
        if not isinstance(value, str):
            raise UserError(f"{self.where}: {column} is {json.dumps(value, default=str)}, not a text")
        if not value.strip():
            raise UserError(f"{self.where}: {column} is empty")
        return value


def read_table(path: str, *, headerless: Sequence[str] = ()) -> list[Row]:
    """All rows of a file, in its order. Cells of a tsv file are read as they stand: quotes are text.

    Args:
        path: a file whose suffix is one of FORMATS.
        headerless: columns of a tsv or csv file whose first line names none of them.

    Raises:
        UserError: naming the file and the row, if it cannot be read or is of another form.
    """
    place, rows = Path(path).expanduser(), list[Row]()
    if place.suffix not in FORMATS:
        raise UserError(f"data.path={path} must end in {', '.join(FORMATS)}")
    try:
        for number, columns in _numbered(place, headerless):
            if not isinstance(columns, dict):
                raise UserError(f"{path}, row {number} is no object with named columns")
            rows.append(Row(f"{path}, row {number}", columns))
    except OSError as error:
        raise UserError(f"data.path={path} cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}, after {len(rows):,} rows: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows


def _numbered(place: Path, headerless: Sequence[str]) -> Iterator[tuple[int, Any]]:
    if place.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise UserError("parquet files need pyarrow: pip install 'gptlab[parquet]'") from None
        yield from enumerate(parquet.read_table(place).to_pylist(), start=1)
        return
    with place.open(encoding="utf-8-sig", newline="") as file:
        if place.suffix == ".json":
            content = json.load(file)
            if not isinstance(content, list):
                raise ValueError("a list of objects was expected, such as [{...}, {...}]")
            yield from enumerate(content, start=1)
        elif place.suffix == ".jsonl":
            yield from ((number, json.loads(line)) for number, line in enumerate(file, start=1) if line.strip())
        else:
            yield from _cells(file, place.suffix, headerless)


def _cells(file: Any, suffix: str, headerless: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    csv.field_size_limit(2**31 - 1)  # a text may be long
    form: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if suffix == ".tsv" else {"strict": True}
    lines = ((number, cells) for number, cells in enumerate(csv.reader(file, **form), start=1) if cells)
    first, names = next(lines, (1, []))
    if headerless and not {*headerless} & {name.strip().lower() for name in names}:  # "Text" is a misspelt header
        lines, names = itertools.chain([(first, names)], lines), [*headerless]  # type: ignore[assignment]
    for number, cells in lines:
        if len(cells) != len(names):
            raise ValueError(f"row {number} has {len(cells)} cells, not {len(names)} ({', '.join(names)})")
        yield number, dict(zip(names, cells, strict=True))
