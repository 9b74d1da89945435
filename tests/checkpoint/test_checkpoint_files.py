"""Checkpoint files: of this version, of earlier ones, truncated, and of something else."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gptlab as package
from conftest import Result
from gptlab.checkpoint import compatibility
from gptlab.checkpoint.compatibility import REMOVED, upgraded, upgraded_state
from gptlab.checkpoint.loaded import Loaded
from gptlab.errors import UserError

OLD = Path(__file__).with_name("run-0.1.0")
"""A run that version 0.1.0 has trained for 200 steps."""
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture(scope="module")
def old() -> Loaded:
    return package.load(OLD)


def test_a_run_of_0_1_0_generates_its_text(old: Loaded) -> None:
    text = old.generate("The square of", max_new_tokens=24, greedy=True)
    assert "The square of" + text == EXPECTED["generated"]
    assert old.training["steps"] == 200


def test_a_run_of_0_1_0_resumes(gptlab: Callable[..., Result], workplace: Path) -> None:
    shutil.copytree(OLD, workplace / "old")
    lines = [f"The square of {n} is {n * n}. Its cube is {n**3}.\n" for n in range(300)]
    (workplace / "squares.txt").write_text("".join(lines))
    result = gptlab("train", "resume=old", "max_steps=250", "+data.path=squares.txt")
    assert result.status == 0, result.err
    summary = json.loads((workplace / "old" / "summary.json").read_text())
    for name in ("steps", "train_loss", "val_loss"):
        assert summary[name] == pytest.approx(EXPECTED[name], rel=1e-6), name
    rows = list(csv.DictReader((workplace / "old" / "metrics.csv").open()))
    assert int(rows[-1]["step"]) == 250


def test_the_table_of_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "old.place.Choice": {"_target_": "gptlab.training.schedules.cosine", "total_steps": "${max_steps}"},
        "gptlab.training.schedules.cosine": {"floor": 0.5, "unknown": 1, "gone": REMOVED},
    }
    monkeypatch.setattr(compatibility, "CHANGES", changes)
    config = {
        "max_steps": 7,
        "a": [{"_target_": "old.place.Choice", "warmup_steps": 1}],
        "b": {"_target_": "gptlab.training.schedules.cosine", "floor": 0.1, "gone": 2},
    }
    assert upgraded(config) == {
        "max_steps": 7,
        "a": [{"_target_": "gptlab.training.schedules.cosine", "warmup_steps": 1, "total_steps": 7, "floor": 0.5}],
        "b": {"_target_": "gptlab.training.schedules.cosine", "floor": 0.1},
    }
    assert upgraded(upgraded(config)) == upgraded(config)
    assert upgraded_state({"config": {}, "owes_validation": True})["validation_pending"] is True


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_a_sentence(tmp_path: Path, share: float) -> None:
    content = (OLD / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"^\S+cut\.ckpt is truncated, damaged, or not a checkpoint \(\.ckpt\)$"):
        package.load(tmp_path / "cut.ckpt")


def changed(**gptlab: object) -> dict:
    content = torch.load(OLD / "checkpoints" / "last.ckpt", weights_only=True)
    return {**content, "gptlab": {**content["gptlab"], **gptlab}}


def diverged() -> dict:
    content = changed()
    content["state_dict"]["model.trunk.norm.bias"][3] = torch.nan
    return content


FOREIGN = {
    "something else": ({"state_dict": {}}, "is a torch file, but no checkpoint of gptlab's"),
    "of another size": (changed(vocab_size=301), "cannot be loaded: Error"),
    "a tokenizer's state of another": (changed(tokenizer={"a": 1}), "cannot be loaded: "),
    "not a number": (diverged(), "the weight trunk.norm.bias holds nan or infinity"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_or_diverged_checkpoint_is_a_sentence(tmp_path: Path, case: str) -> None:
    content, words = FOREIGN[case]
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError) as error:
        package.load(tmp_path / "foreign.ckpt")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_generates_from_python(old: Loaded) -> None:
    text = old.generate("The square of", max_new_tokens=20, seed=3)
    assert text == old.generate("The square of", max_new_tokens=20, seed=3)
    assert text != old.generate("The square of", max_new_tokens=20, seed=4)
    whole = old.generate("The square of", max_new_tokens=20, greedy=True)
    assert old.generate("The square of", max_new_tokens=20, greedy=True, stop="is") == whole.partition("is")[0]
    assert old.generate("", max_new_tokens=3), "an empty prompt is the end-of-text token"


def test_the_example_prompt_is_of_the_text_that_a_model_was_trained_on(old: Loaded, tmp_path: Path) -> None:
    torch.save(changed(prompt="The cube"), tmp_path / "new.ckpt")
    assert package.load(tmp_path / "new.ckpt").example_prompt() == "The cube"
    assert old.example_prompt() == "Once upon a time"
