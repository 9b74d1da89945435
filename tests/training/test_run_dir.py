from pathlib import Path

import pytest

from gptlab.errors import UserError
from gptlab.training.run_dir import claim


def test_two_runs_of_one_second_get_two_directories(workplace: Path) -> None:
    directories = [claim(None, "default") for _ in range(5)]
    assert len(set(directories)) == 5
    assert all(directory.parent == workplace / "outputs" / "default" for directory in directories)


def test_a_directory_with_a_checkpoint_is_refused_with_the_way_on(workplace: Path) -> None:
    (workplace / "mine" / "checkpoints").mkdir(parents=True)
    (workplace / "mine" / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"holds a run already: go on with resume=.*mine"):
        claim("mine", "default")


def test_a_directory_without_a_checkpoint_is_started_over(workplace: Path) -> None:
    (workplace / "mine").mkdir()
    for name in ("metrics.csv", "events.out.tfevents.1", "notes.txt"):
        (workplace / "mine" / name).write_text("old")
    assert claim("mine", "default") == workplace / "mine"
    assert [path.name for path in (workplace / "mine").iterdir()] == ["notes.txt"], "what is the user's stays"


def test_a_directory_that_cannot_be_made_is_named(workplace: Path) -> None:
    (workplace / "file").touch()
    with pytest.raises(UserError, match="run_dir=file/run cannot be written"):
        claim("file/run", "default")
