"""cases.md and cases.csv: the results of the cases of a sweep, as means over its other keys, such as the seed."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.files import write_whole
from gptlab.sweep.space import CASE, Case, Cases
from gptlab.sweep.trial import TrialRecord

COLUMNS = (
    *("case", "adds", "causal", "runs", "parameters", "val_loss", "val_loss_spread", "val_perplexity"),
    "tokens_per_second",
)


def write_tables(sweep_dir: Path, cases: Cases, records: list[TrialRecord]) -> str:
    """Write both tables, of the finished trials. Returns the one in markdown.

    Losses are in nats per token. The spread is the standard deviation (n - 1) over the runs of a case.
    """
    rows = [*_rows(cases.cases, [record for record in records if record.status == "finished"])]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(sweep_dir / "cases.csv", text.getvalue())
    markdown = "".join(f"{line}\n" for line in _markdown(rows))
    write_whole(sweep_dir / "cases.md", markdown)
    return markdown


def _rows(cases: tuple[Case, ...], records: list[TrialRecord]) -> Iterator[dict[str, Any]]:
    for case in cases:
        summaries = [record.summary for record in records if record.values[CASE] == case.name]
        if not summaries:
            continue
        losses = np.array([summary["val_loss"] for summary in summaries], dtype=float)  # nan if one has diverged
        yield {
            "case": case.name,
            "adds": case.adds,
            "causal": summaries[0]["causal"],
            "runs": len(summaries),
            "parameters": summaries[0]["parameters"],
            "val_loss": losses.mean(),
            "val_loss_spread": losses.std(ddof=1) if len(losses) > 1 else None,
            "val_perplexity": math.exp(min(losses.mean(), 700.0)),
            "tokens_per_second": np.mean([summary["tokens_per_second"] for summary in summaries]),
        }


def _markdown(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| | adds | parameters | val loss | perplexity | tokens/s |"
    yield "|---|---|---:|---:|---:|---:|"
    for row in rows:
        spread = "" if row["val_loss_spread"] is None else f" ± {row['val_loss_spread']:.3f}"
        mark = "" if row["causal"] else " (not causal)"
        numbers = f"{row['val_loss']:.3f}{spread}{mark} | {row['val_perplexity']:.2f} | {row['tokens_per_second']:,.0f}"
        case, adds = (row[name].replace("|", "\\|") for name in ("case", "adds"))
        yield f"| {case} | {adds} | {row['parameters']:,} | {numbers} |"
