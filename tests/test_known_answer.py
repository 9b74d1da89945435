"""Runs on sources whose answer is known: an honest one comes near the floor, a leak is found under it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import TINY, Result
from gptlab.data.windows import WindowDataset
from gptlab.training.metrics import read_metrics

Command = Callable[..., Result]

SMALL = (
    *(setting for setting in TINY if not setting.startswith(("data", "tokenizer", "max_steps", "validate", "optim"))),
    *("data=markov", "data.vocab_size=12", "data.n_val=256", "context_length=32", "batch_size=16", "model.d_model=32"),
    *("max_steps=250", "validate_every=250", "save_every=250", "callbacks.samples=null", "run_dir=run"),
)
"""Six seconds."""


def test_a_chain_of_order_one_is_learned_to_within_two_per_cent_of_its_entropy_rate(
    gptlab: Command, workplace: Path
) -> None:
    result = gptlab("train", *SMALL)
    assert result.status == 0, result.err
    summary = json.loads((workplace / "run/summary.json").read_text())
    rate = summary["entropy_rate"]
    assert abs(summary["val_loss"] - rate) < 0.02 * rate
    assert summary["val_excess"] == pytest.approx(summary["val_loss"] - rate)
    assert summary["val_loss"] > summary["val_ideal_loss"]
    metrics = read_metrics(workplace / "run/metrics.csv")
    assert metrics["val/entropy_rate"][-1] == pytest.approx(rate, rel=1e-5)
    assert f"ideal loss {summary['val_ideal_loss']:.3f}" in result.out


ORDER_TWO = (
    "data.order=2",
    "data.vocab_size=12",
    "context_length=64",
    "model.d_model=64",
    "batch_size=16",
    "max_steps=1000",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_default_source_and_one_of_order_two_are_learned_to_within_two_per_cent(
    gptlab: Command, workplace: Path
) -> None:
    plain = ("data=markov", "trainer=cpu", "callbacks.samples=null", "callbacks.curves=null")
    for name, changes in {"one": (), "two": ORDER_TWO}.items():
        assert gptlab("train", *plain, *changes, f"run_dir={name}").status == 0
        summary = json.loads((workplace / name / "summary.json").read_text())
        assert summary["val_excess"] < 0.02 * summary["entropy_rate"]


SHORT = (*SMALL, "max_steps=100", "validate_every=100", "save_every=100")


@pytest.mark.parametrize(
    "leak", ["model.attention._target_=accidents.OffByOne", "objective._target_=accidents.HalfTheLoss"]
)
def test_a_mask_off_by_one_and_a_loss_that_is_too_small_end_the_run_as_an_error(
    gptlab: Command, workplace: Path, leak: str
) -> None:
    result = gptlab("train", *SHORT, leak)
    assert result.status == 1
    assert "the loss of an ideal predictor on the same targets, by" in result.err
    summary = json.loads((workplace / "run/summary.json").read_text())
    assert summary["status"] == "failed"
    assert "standard errors" in summary["failure"]
    assert gptlab("train", "resume=run").status == 1  # a resumed run validates again


def test_a_target_among_the_inputs_ends_the_run_as_an_error(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    right = WindowDataset.batch

    def shifted(self: WindowDataset, indices: object) -> tuple[torch.Tensor, torch.Tensor]:
        _, targets = right(self, indices)  # type: ignore[arg-type]
        return targets, targets

    monkeypatch.setattr(WindowDataset, "batch", shifted)
    result = gptlab("train", *SHORT)
    assert result.status == 1
    assert "the model sees what it is to predict" in result.err


@pytest.mark.parametrize("name", ["copy", "arithmetic"])
def test_accuracy_is_that_of_the_decided_targets(gptlab: Command, workplace: Path, name: str) -> None:
    settings = [setting for setting in SMALL if not setting.startswith("data")]
    result = gptlab("train", *settings, f"data={name}", "data.n_val=64", "max_steps=5", "validate_every=5")
    assert result.status == 0, result.err
    summary = json.loads((workplace / "run/summary.json").read_text())
    assert 0 <= summary["val_accuracy"] < 0.5
    assert f"val accuracy {summary['val_accuracy']:.1%}" in result.out


def test_the_tokenizer_is_that_of_the_source_unless_one_is_named(gptlab: Command, workplace: Path) -> None:
    short = ("max_steps=2", "validate_every=2")
    assert gptlab("train", *SMALL, *short).status == 0
    assert "CharTokenizer" in (workplace / "run/config.yaml").read_text()
    assert (
        "does not make one token of each symbol" in gptlab("train", *SMALL, "tokenizer=words_unk", "run_dir=other").err
    )
    assert gptlab("train", *SMALL, *short, "tokenizer=bpe", "run_dir=other").status == 0
    assert "BPETokenizer" in (workplace / "other/config.yaml").read_text()
    assert json.loads((workplace / "other/summary.json").read_text())["entropy_rate"] == pytest.approx(
        json.loads((workplace / "run/summary.json").read_text())["entropy_rate"]
    )
