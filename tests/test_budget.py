"""Budgets in place of max_steps: tokens, operations, and time on this machine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import gptlab as package
from conftest import TINY, Result
from gptlab.training.budget import Budget
from gptlab.training.metrics import read_metrics
from gptlab.training.schedules import cosine, wsd

Command = Callable[..., Result]

OTHERS = ("max_steps", "schedule", "callbacks.samples")
BARE = (*(setting for setting in TINY if not setting.startswith(OTHERS)), "callbacks.samples=null", "run_dir=run")
STEP = 4 * 16
"""Tokens of a step."""


def summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def test_a_budget_of_tokens_is_that_many_steps_and_the_schedule_ends_with_them(
    gptlab: Command, workplace: Path
) -> None:
    assert gptlab("train", *BARE, f"max_tokens={10 * STEP + 5}", "schedule.warmup_steps=0").status == 0
    found = summary(workplace / "run")
    assert (found["steps"], found["tokens"], found["budget"]) == (10, 10 * STEP, f"max_tokens={10 * STEP + 5}")
    rates = read_metrics(workplace / "run/metrics.csv")["lr"]
    assert rates[-1] == pytest.approx(
        2e-3 * wsd(9, total_steps=10, warmup_steps=0, decay_steps=0.8, floor=0.0), rel=1e-4
    )
    assert gptlab("train", "resume=run", f"max_tokens={12 * STEP}").status == 0
    assert summary(workplace / "run")["steps"] == 12
    assert "max_tokens=128 allows 2 steps; the run in" in gptlab("train", "resume=run", "max_tokens=128").err


def test_a_budget_of_operations_is_the_exact_count_of_the_steps(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *BARE, "max_steps=3").status == 0
    flops = summary(workplace / "run")["flops"]
    assert flops > 6 * summary(workplace / "run")["non_embedding_parameters"] * 3 * STEP
    assert gptlab("train", *BARE, f"max_flops={2.5 * flops}", "run_dir=other").status == 0
    found = summary(workplace / "other")
    assert found["steps"] == 7
    assert found["flops"] == pytest.approx(flops * 7 / 3)
    assert gptlab("train", "resume=other", "max_steps=9").status == 0
    assert summary(workplace / "other")["flops"] == pytest.approx(flops * 3)
    assert summary(workplace / "other")["budget"] == "max_steps=9"


def test_a_budget_of_time_ends_the_run_and_its_schedule(gptlab: Command, workplace: Path) -> None:
    result = gptlab("train", *BARE, "max_minutes=0.02", "validate_every=1000", "save_every=1000")
    assert result.status == 0, result.err
    assert "a repeated or resumed run is not bit-equal" in result.out
    found = summary(workplace / "run")
    assert found["budget"] == "max_minutes=0.02"
    metrics = read_metrics(workplace / "run/metrics.csv")
    rates = metrics["lr"]
    assert len(rates) == found["steps"] > 10
    assert rates[-1] < 0.1 * max(rates)
    assert metrics["val/loss"][-1] == pytest.approx(found["val_loss"], rel=1e-4)
    assert "has finished its" in gptlab("train", "resume=run").err
    assert gptlab("train", "resume=run", "max_minutes=0.03").status == 0
    steps = summary(workplace / "run")["steps"]
    assert steps > found["steps"]
    assert gptlab("train", "resume=run", f"max_steps={2 * steps}").status == 0
    rates = read_metrics(workplace / "run/metrics.csv")["lr"]
    assert rates[steps + 1] == pytest.approx(2e-3 * 0.62, rel=0.05)  # its schedule ends at the new last step


def test_a_run_of_a_time_takes_the_steps_that_fit_and_follows_the_share_that_is_used() -> None:
    budget, schedule = (
        Budget(10**9, max_minutes=1.0),
        lambda step, *, total_steps: cosine(step, total_steps=total_steps, warmup_steps=0, floor=0.0),
    )
    seconds, factors = 0.0, []
    while budget.n_steps == 10**9:
        factors.append(budget.lr_factor(schedule, len(factors)))
        seconds += 1.0 if seconds < 30 else 2.0  # the machine becomes slower
        budget.spend(len(factors), seconds)
    assert (len(factors), budget.n_steps) == (45, 46)  # 30 of one second, 15 of two, and the last
    assert factors[30] == pytest.approx(0.5, abs=0.01)  # after half of the time
    assert factors[-1] < 0.02
    assert budget.lr_factor(lambda step: 0.25, 3) == 0.25  # a schedule that has no end


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("max_tokens=1e6", "max_steps=10"), "max_tokens and max_steps are two budgets: name one"),
        (("max_minutes=1", "max_flops=1e9"), "max_minutes and max_flops are two budgets: name one"),
        (("max_tokens=5",), "max_tokens=5 is less than one step, which takes 64 tokens"),
        (
            ("max_minutes=1", "schedule.warmup_steps=20"),
            "schedule.warmup_steps=20: max_minutes does not know the steps",
        ),
        (("max_flops=0",), "max_flops=0 must be more than 0"),
        (
            ("max_tokens=640", "schedule.warmup_steps=20"),
            "schedule.warmup_steps=20 must be a number of steps in [0, 10]",
        ),
    ],
)
def test_two_budgets_and_budgets_for_nothing_are_refused(
    gptlab: Command, workplace: Path, words: tuple[str, ...], message: str
) -> None:
    result = gptlab("train", *BARE, *words)
    assert (result.status, message in result.err) == (2, True), result.err
    assert not (workplace / "run").exists()


def test_a_budget_under_resume_auto_is_the_one_of_the_command(gptlab: Command, workplace: Path) -> None:
    for n in (4, 4, 6):
        assert gptlab("train", *BARE, f"max_tokens={n * STEP}", "resume=auto").status == 0
        assert summary(workplace / "run")["steps"] == n


def test_rows_of_different_lengths_have_no_budget_of_tokens(gptlab: Command, workplace: Path) -> None:
    rows = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(40)]
    (workplace / "rows.json").write_text(json.dumps(rows))
    own = [word for word in BARE if not word.startswith("data")]
    result = gptlab(
        "train",
        *own,
        "data=instructions",
        "data.path=rows.json",
        "context_length=128",
        "max_tokens=1e4",
        "tokenizer=bpe",
        "tokenizer.vocab_size=300",
    )
    assert result.status == 2
    assert "max_tokens: the rows of rows.json differ in length" in result.err


def test_a_budget_works_from_python(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in BARE if not word.startswith(("run_dir", "callbacks"))]
    config = package.compose([*words, f"max_tokens={5 * STEP}"])
    data = package.data_module(config)
    module = package.training_module(config, data)
    assert module.config["max_steps"] == data.n_steps == 5
    assert module.config["schedule"]["total_steps"] == 5
