"""Files are there whole or not at all."""

import io
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gptlab.files import as_yaml, give_name, whole_file, write_whole
from gptlab.training.run_files import LOADER


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


@given(
    st.text(
        st.sampled_from("-#:{[\"' \n\x85\u2028\u2029\ufeff0+1e_.xyn\U0001f469")
        | st.characters(exclude_categories=["Cs"])
    )
)
@example("/texts/\x85")
@example("1e-3")
@example("1_0")
def test_yaml_holds_any_text_for_whoever_reads_it(text: str) -> None:
    content = {"data": {"path": text, "more": [text]}}
    written = as_yaml(content)
    assert yaml.safe_load(written) == LOADER(written).get_single_data() == content
    if "$" not in text:
        assert OmegaConf.to_container(OmegaConf.load(io.StringIO(written))) == content


def test_yaml_for_people_repeats_what_stands_in_two_places() -> None:
    betas = [0.9, 0.95]
    assert as_yaml({"a": betas, "b": betas}) == "a:\n- 0.9\n- 0.95\nb:\n- 0.9\n- 0.95\n"
