"""Cases: named sets of overrides as one swept key, and the tables that a sweep over them ends with."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gptlab.cli.search_space import search_space
from gptlab.errors import UserError
from gptlab.sweep.cases import write_tables
from gptlab.sweep.space import Cases, parameter
from gptlab.sweep.trial import TrialRecord, best_of

NODES = [
    {"name": "lookup", "overrides": ["model=stage1"], "adds": "nothing"},
    {"name": "deep", "overrides": ["model=stage4", "model.n_layers=6"], "adds": "six | blocks"},
]


def test_a_case_is_all_of_its_overrides() -> None:
    _, (entry, seed) = search_space({"case": {"cases": NODES}, "seed": {"grid": [1, 2]}}, [], sampler="grid")
    assert isinstance(entry, Cases)
    assert entry.values == ("lookup", "deep")
    assert entry.overrides("deep") == ["model=stage4", "model.n_layers=6"]
    assert parameter("case", entry.node) == entry
    assert seed.overrides(2) == ["seed=2"]


@pytest.mark.parametrize(("words", "names"), [("case=deep", ("deep",)), ("case=deep,lookup", ("lookup", "deep"))])
def test_some_cases_are_chosen_on_the_command_line(words: str, names: tuple[str, ...]) -> None:
    fixed, (entry,) = search_space({"case": {"cases": NODES}}, [words], sampler="grid")
    assert (fixed, entry.values) == ([], names)


def test_a_misspelt_case_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"case=lokup is not one of lookup, deep; did you mean lookup\?"):
        search_space({"case": {"cases": NODES}}, ["case=lokup"], sampler="grid")


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([], "must be a list such as"),
        ("stage1", "must be a list such as"),
        ([{"name": "a"}], "must be a list such as"),
        ([{"name": "a", "overrides": "seed=1"}], "must be a list such as"),
        ([{"name": "a", "overrides": [1]}], "must be a list such as"),
        ([{"name": "a", "overrides": [], "adds": None}], "must be a list such as"),
        ([{"name": "a", "overrides": []}, {"name": "a", "overrides": ["seed=1"]}], "has a twice"),
    ],
)
def test_what_is_no_list_of_cases_is_said_in_one_sentence(nodes: Any, what: str) -> None:
    with pytest.raises(UserError, match=what):
        parameter("case", {"cases": nodes})


def record(number: int, case: str, loss: float, *, causal: bool = True, status: str = "finished") -> TrialRecord:
    numbers = {"val_loss": loss, "causal": causal, "parameters": 1000, "tokens_per_second": 500.0}
    return TrialRecord(number, status, None, {"case": case, "seed": number % 2}, loss, numbers, Path(str(number)))


def test_the_tables_have_means_over_the_seeds_of_each_case(tmp_path: Path) -> None:
    cases = parameter("case", {"cases": NODES})
    assert isinstance(cases, Cases)
    records = [
        *(record(0, "lookup", 2.5), record(1, "lookup", 2.7), record(3, "deep", math.inf, status="failed")),
        record(2, "deep", 0.25, causal=False),
    ]
    markdown = write_tables(tmp_path, cases, records)
    lookup, deep = csv.DictReader((tmp_path / "cases.csv").open())
    assert float(lookup["val_loss"]) == pytest.approx(2.6)
    assert float(lookup["val_loss_spread"]) == pytest.approx(0.2 / math.sqrt(2))
    assert float(lookup["val_perplexity"]) == pytest.approx(math.exp(2.6))
    assert (deep["runs"], deep["causal"], deep["val_loss_spread"]) == ("1", "False", "")
    assert markdown == (tmp_path / "cases.md").read_text()
    assert "| lookup | nothing | 1,000 | 2.600 ± 0.141 | 13.46 | 500 |" in markdown
    assert r"| deep | six \| blocks | 1,000 | 0.250 (not causal) |" in markdown


def test_a_case_that_has_diverged_has_a_row(tmp_path: Path) -> None:
    cases = parameter("case", {"cases": NODES})
    assert isinstance(cases, Cases)
    diverged = replace(record(1, "deep", 0.0), summary={**record(1, "deep", 0.0).summary, "val_loss": None})
    write_tables(tmp_path, cases, [record(0, "lookup", 2.5), record(2, "deep", 800.0), diverged])
    assert [row["val_loss"] for row in csv.DictReader((tmp_path / "cases.csv").open())] == ["2.5", "nan"]


def test_a_model_that_sees_the_future_is_not_the_best() -> None:
    records = [record(0, "lookup", 2.5), record(1, "deep", 0.1, causal=False)]
    assert best_of(records, direction="minimize") is records[0]
    assert best_of(records[1:], direction="minimize") is records[1]
