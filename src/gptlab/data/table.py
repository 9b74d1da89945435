"""Tables of examples: tsv, csv, json, jsonl and parquet files as rows of named columns."""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.arguments import nearest
from gptlab.data.text import CHUNK_BYTES, opened
from gptlab.errors import UserError, needed

FORMATS = (".tsv", ".csv", ".json", ".jsonl", ".parquet")
PARQUET_ROWS = 256  # that are read at once


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


def stream_texts(file: Path, column: str) -> Iterator[str]:
    """The texts in a column of a .jsonl (also .gz, .zst) or .parquet file, in order, a few of them in memory.

    Rows without a text (null, white space) are left out. Raises UserError, naming file and row, on anything else.
    """
    number = 0
    try:
        for number, columns in _stream(file, column):
            if not isinstance(columns, dict):
                raise UserError(f"{file}, row {number} is no object with named columns")
            value = columns.get(column, "none")
            if value is not None and (not isinstance(value, str) or value.strip()):
                yield Row(f"{file}, row {number}", columns).text(column)
    except (OSError, ValueError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise UserError(f"{file}, after row {number:,}: {reason}") from None


def _stream(file: Path, column: str | None = None) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers, from 1 (lines of jsonl); of parquet with this column alone, if the file has it."""
    if file.suffix == ".parquet":
        parquet = needed("pyarrow.parquet", what=file.name, extra="parquet")
        with parquet.ParquetFile(file, buffer_size=CHUNK_BYTES, pre_buffer=False) as table:
            columns = [column] if column in table.schema_arrow.names else None
            batches = table.iter_batches(PARQUET_ROWS, columns=columns)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
        return
    with opened(file) as stream:
        yield from ((number, json.loads(line)) for number, line in enumerate(stream, start=1) if line.strip())


def _numbered(place: Path, headerless: Sequence[str]) -> Iterator[tuple[int, Any]]:
    if place.suffix in (".parquet", ".jsonl"):
        yield from _stream(place)
        return
    with place.open(encoding="utf-8-sig", newline="") as file:
        if place.suffix == ".json":
            content = json.load(file)
            if not isinstance(content, list):
                raise ValueError("a list of objects was expected, such as [{...}, {...}]")
            yield from enumerate(content, start=1)
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
