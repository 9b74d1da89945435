import gzip
from pathlib import Path

import pytest
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import POEM, choices, conf_node
from gptlab.data import text as text_module
from gptlab.data.base import Piece
from gptlab.data.text import TextFiles
from gptlab.errors import UserError
from gptlab.tokenizer.bpe import BPETokenizer

WINDOWS = {"stride": None, "val_fraction": 0.1, "num_workers": 0, "cache_dir": None}


def text_files(path: Path) -> TextFiles:
    return TextFiles(path=str(path), **WINDOWS)


def pieces_of(path: Path) -> list[Piece]:
    return list(text_files(path).pieces())


def read(path: Path) -> list[str]:
    """The documents, put together from their pieces."""
    documents, current = [], ""
    for piece in pieces_of(path):
        current += piece.text
        if piece.ends_document:
            documents.append(current)
            current = ""
    assert current == ""
    return documents


TEXT_SOURCES = [name for name in choices("data") if "val_fraction" in conf_node("data", name)]


@pytest.mark.parametrize("name", TEXT_SOURCES)
def test_a_source_reads_the_same_twice_and_has_a_fingerprint(name: str, tmp_path: Path) -> None:
    node = conf_node("data", name)
    (tmp_path / "a.txt").write_text(POEM)
    settings_ = {**WINDOWS, **({"path": str(tmp_path)} if "path" in node else {})}
    source = get_class(node["_target_"])(**settings_)
    pieces = list(source.pieces())
    assert pieces == list(source.pieces())
    assert pieces[-1].ends_document
    assert name != "python_docs" or 300_000 < sum(len(piece.text) for piece in pieces) < 2_000_000
    assert source.fingerprint() == get_class(node["_target_"])(**settings_).fingerprint()


def test_directory_glob_and_gzip_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("two")
    (tmp_path / "a.txt").write_text("one", encoding="utf-8-sig")  # a byte order mark is no text
    (tmp_path / "deeper").mkdir()
    with gzip.open(tmp_path / "deeper" / "c.txt.gz", "wt", encoding="utf-8") as file:
        file.write("thr\u00e9\u00e9")
    (tmp_path / "d.csv").write_text("not text")
    assert read(tmp_path) == ["one", "two", "thr\u00e9\u00e9"]
    assert read(tmp_path / "*.txt") == ["one"]
    assert read(tmp_path / "**" / "*.gz") == ["thr\u00e9\u00e9"]
    assert read(tmp_path / "d.csv") == ["not text"]


@settings(max_examples=20, deadline=None)
@given(st.text(st.sampled_from("ab\u00e9\u20ac\U0001f600 \n"), max_size=300), st.integers(3, 50))
def test_the_pieces_of_a_large_file_are_its_text(tmp_path_factory, content: str, chunk: int) -> None:
    file = tmp_path_factory.mktemp("pieces") / "text.txt"
    file.write_bytes(content.encode())
    before, text_module.CHUNK_BYTES = text_module.CHUNK_BYTES, chunk
    try:
        pieces = pieces_of(file) if content else []
    finally:
        text_module.CHUNK_BYTES = before
    assert "".join(piece.text for piece in pieces) == content


def test_pieces_are_cut_at_seams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 64)
    (tmp_path / "poem.txt").write_text(POEM * 5)
    pieces = pieces_of(tmp_path / "poem.txt")
    assert len(pieces) > 5
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    tokenizer = BPETokenizer.train([POEM], vocab_size=300)
    in_pieces = [id_ for piece in pieces for id_ in tokenizer.encode(piece.text)]
    assert in_pieces == tokenizer.encode(POEM * 5)


@pytest.mark.parametrize(("content", "offset"), [(b"ok \xc3", 3), ("\u20ac".encode() * 30 + b"\x80", 90)])
def test_text_that_is_not_utf8_is_named_with_the_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, offset: int
) -> None:
    monkeypatch.setattr(text_module, "CHUNK_BYTES", 16)
    (tmp_path / "latin.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"latin\.txt is not UTF-8: the byte at offset {offset} "):
        pieces_of(tmp_path)
