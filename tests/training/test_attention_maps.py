"""The attention picture of each validation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import TINY, Result
from gptlab.model import GPT, LanguageModel
from same_run import weights

Command = Callable[..., Result]
QUICK = (*TINY, "callbacks.samples=null", "callbacks.curves=null", "trainer.precision=bf16-mixed")


def test_each_validation_has_its_picture_and_training_is_the_same_to_the_bit(gptlab: Command) -> None:
    assert gptlab("train", *QUICK, "model.dropout=0.2", "run_dir=without").status == 0
    pictures = ("callbacks=attention", "callbacks.attention.prompt=The fog")
    result = gptlab("train", *QUICK, "model.dropout=0.2", *pictures, "run_dir=with")
    assert result.status == 0, result.err
    events = EventAccumulator("with", size_guidance={"images": 0}).Reload()
    assert [image.step for image in events.Images("attention")] == [3, 6]
    with_pictures = weights(Path("with"))
    assert all(torch.equal(tensor, with_pictures[name]) for name, tensor in weights(Path("without")).items())


def test_a_model_without_attention_trains_with_one_warning(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPT, "capture", LanguageModel.capture)
    result = gptlab("train", *QUICK, "callbacks=attention", "run_dir=run")
    assert result.status == 0, result.err
    assert result.err.count("callbacks.attention shows no attention: GPT shows no attention weights") == 1
