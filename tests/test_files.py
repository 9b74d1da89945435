"""Files are there whole or not at all."""

import io
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gptlab.files import as_yaml, whole_file, write_whole
from gptlab.training.run_files import LOADER


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "even older")
    with whole_file(tmp_path / "file") as file:
        file.write(b"old")
        file.flush()
        assert (tmp_path / "file").read_text() == "even older", "a reader never sees a half"
    with pytest.raises(TypeError), whole_file(tmp_path / "file") as file:
        file.writelines([b"ne", "w"])  # type: ignore[list-item]
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@settings(deadline=None)
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
