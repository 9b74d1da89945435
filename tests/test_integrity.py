"""A file that is not what was written is noticed."""

from pathlib import Path
from random import Random

import pytest
import torch

from damage import damaged
from gptlab.integrity import is_whole_zip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save({"weights": torch.arange(10_000) / 7, "steps": 7}, tmp_path / "saved.pt")
    return tmp_path / "saved.pt"


def test_what_torch_saves_is_whole(saved: Path) -> None:
    assert is_whole_zip(saved)


def test_one_bit_of_a_weight_is_noticed_which_torch_does_not(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    torch.load(saved, weights_only=True)  # should this ever raise, there is less for us to do
    assert not is_whole_zip(saved)


def test_damage_is_noticed_or_changes_nothing_that_is_read(saved: Path) -> None:
    random, whole = Random(0), saved.read_bytes()
    weights = torch.load(saved, weights_only=True)["weights"]
    unnoticed = 0
    for _ in range(300):
        saved.write_bytes(damaged(whole, random))
        if is_whole_zip(saved):
            unnoticed += 1
            assert torch.load(saved, weights_only=True)["weights"].equal(weights)
    assert unnoticed < 100


@pytest.mark.parametrize("content", [b"", b"PK", b"text of some length" * 100])
def test_what_is_no_zip_is_not_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_whole_zip(tmp_path / "file")


def test_of_what_cannot_be_read_nothing_is_said(tmp_path: Path) -> None:
    """A disk that answers again in a moment must not cost a checkpoint."""
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(OSError, match=r"directory"):
            is_whole_zip(path)
