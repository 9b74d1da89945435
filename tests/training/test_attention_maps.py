"""The attention picture of each validation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import TINY, Result
from gptlab.model import GPT, LanguageModel

Command = Callable[..., Result]


def image_steps(run_dir: str) -> list[int]:
    events = EventAccumulator(run_dir, size_guidance={"images": 0})
    events.Reload()
    return [image.step for image in events.Images("attention")]


def weights(run_dir: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(run_dir, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]


def test_each_validation_has_its_picture_and_training_is_the_same_to_the_bit(gptlab: Command) -> None:
    quick = (*TINY, "model.dropout=0.2", "callbacks.samples=null", "callbacks.curves=null")
    assert gptlab("train", *quick, "run_dir=without").status == 0
    result = gptlab("train", *quick, "callbacks=attention", "run_dir=with", "callbacks.attention.prompt=The fog")
    assert result.status == 0, result.err
    assert image_steps("with") == [3, 6]
    with_pictures = weights("with")
    assert all(torch.equal(tensor, with_pictures[name]) for name, tensor in weights("without").items())


def test_a_model_without_attention_trains_with_one_warning(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPT, "capture", LanguageModel.capture)
    quick = (*TINY, "callbacks=attention", "callbacks.samples=null", "callbacks.curves=null")
    result = gptlab("train", *quick, "run_dir=run")
    assert result.status == 0, result.err
    assert result.err.count("callbacks.attention shows no attention: GPT has no attention weights") == 1
    events = EventAccumulator("run").Reload()
    assert events.Tags()["images"] == []


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_other_precisions_have_pictures_too(gptlab: Command, precision: str) -> None:
    quick = (*TINY, "callbacks=attention", "callbacks.samples=null", "callbacks.curves=null", "max_steps=3")
    result = gptlab("train", *quick, "run_dir=run", f"trainer.precision={precision}")
    assert result.status == 0, result.err
    assert image_steps("run") == [3]
