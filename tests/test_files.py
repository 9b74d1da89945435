"""Files are there whole or not at all."""

from pathlib import Path

import pytest

from gptlab.files import give_name, whole_file, write_whole


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "old")
    with pytest.raises(TypeError), whole_file(tmp_path / "file") as file:
        file.writelines([b"ne", "w"])  # type: ignore[list-item]
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_reader_never_sees_a_half(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "old")
    with whole_file(tmp_path / "file") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_takes_the_place_of_what_had_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr("gptlab.files.os.link", refuse)
    for name in ("last", "previous"):
        (tmp_path / name).write_text(name)
    give_name(tmp_path / "last", tmp_path / "previous")
    assert (tmp_path / "previous").read_text() == "last"
    assert (tmp_path / "last").exists() is links
    if links:
        give_name(tmp_path / "last", tmp_path / "previous")  # which it has already
    assert not list(tmp_path.glob("*.tmp"))
