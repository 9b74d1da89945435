"""`gptlab prepare`: texts become the shards that `data=shards` trains on."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import HARD, POEM, Result, needs_gpt2_vocabulary
from gpt2s import save_gpt2
from gptlab.data import preparation, text
from gptlab.data.preparation import Preparation
from gptlab.data.shard_formats import open_shard
from gptlab.errors import UserError
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer

Command = Callable[..., Result]
BPE = BPETokenizer.train([POEM], vocab_size=280)
DOCUMENTS = [POEM, "a", *HARD, "it sits " * 400, "\n."]
KEPT = [document for document in DOCUMENTS if document.strip()]
"""Of a table; rows of white space are no documents."""


def jobs_of(path: Path, to: Path, **changed: Any) -> Preparation:
    return Preparation(
        **{"path": str(path), "to": str(to), "column": "text", "val_fraction": 0.1, "tokenizer": BPE} | changed
    )


def prepared(path: Path, to: Path, **changed: Any) -> Preparation:
    jobs = jobs_of(path, to, **changed)
    for number in range(len(jobs.files)):
        if jobs.record(number) is None:
            jobs.make(number, lambda n: None)
    return jobs


def tokens_in(to: Path) -> np.ndarray:
    """Of all files in order, each with its part for validation."""
    parts = sorted(to.glob("*.bin"), key=lambda place: (place.stem[-6:], place.name))
    return np.concatenate([np.asarray(open_shard(part).tokens()) for part in parts]).astype(np.int64)


def documents_in(to: Path, tokenizer: Tokenizer = BPE) -> list[str]:
    tokens = tokens_in(to)
    assert tokens[0] == tokenizer.eot
    return [
        tokenizer.decode(part[1:].tolist()) for part in np.split(tokens, np.flatnonzero(tokens == tokenizer.eot))[1:]
    ]


def bytes_in(to: Path) -> dict[str, bytes]:
    return {place.name: place.read_bytes() for place in to.glob("*") if place.suffix == ".bin"}


def as_jsonl(documents: Iterable[str | None]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": document}) + "\n\n" for document in documents).encode()


def write_parquet(path: Path, documents: Sequence[str | None]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"id": list(range(len(documents))), "text": list(documents)})
    parquet.write_table(table, path, row_group_size=500)


def zstd(content: bytes) -> bytes:
    return pytest.importorskip("pyarrow").compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd], ids=["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".txt", ".md", ".jsonl"])
def test_documents_come_back_in_order(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    ending = {bytes: "", gzip.compress: ".gz", zstd: ".zst"}[pack]
    if suffix == ".jsonl":
        (source / f"a{suffix}{ending}").write_bytes(pack(as_jsonl([*DOCUMENTS, None, ""])))
    else:
        for number, document in enumerate(KEPT):
            (source / f"{number:02}{suffix}{ending}").write_bytes(pack(document.encode()))
    prepared(source, tmp_path / "out")
    expected = KEPT if suffix == ".jsonl" else [document.removeprefix("\ufeff") for document in KEPT]
    assert documents_in(tmp_path / "out") == [document for document in expected if document or suffix == ".jsonl"]


def test_documents_of_parquet_come_back_in_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [*DOCUMENTS, None, ""])
    prepared(tmp_path / "a.parquet", tmp_path / "out")
    assert documents_in(tmp_path / "out") == KEPT


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.text() | st.sampled_from(HARD)).map("".join), min_size=1).filter(lambda d: "".join(d).strip()),
    st.sampled_from([0, 0.1, 0.7]),
)
def test_any_documents_come_back_in_order(documents: list[str], val_fraction: float) -> None:
    with TemporaryDirectory() as place:
        path, to = Path(place, "a.jsonl"), Path(place, "out")
        path.write_bytes(as_jsonl(documents))
        record = prepared(path, to, val_fraction=val_fraction).record(0)
        kept = [document for document in documents if document.strip()]
        assert documents_in(to) == kept
        lengths = [1 + len(BPE.encode(document)) for document in kept]
        assert record is not None
        assert record["val_tokens"] == int(sum(lengths) * val_fraction)
        assert record["train_tokens"] + record["val_tokens"] == sum(lengths)
        assert (record["documents"], record["longest_document"]) == (len(kept), max(lengths))
        assert record["bytes"] == sum(len(document.encode()) for document in kept)


@given(st.lists(st.text(st.characters()) | st.sampled_from(HARD)))
def test_documents_are_encoded_at_once_as_one_by_one(documents: list[str]) -> None:
    assert BPE.encode_documents(documents).tolist() == Tokenizer.encode_documents(BPE, documents).tolist()


def test_a_large_text_is_read_in_pieces_and_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(POEM * 9)
    monkeypatch.setattr(text, "CHUNK_BYTES", 100)
    monkeypatch.setattr(preparation, "CHUNK_BYTES", 100)
    jobs = prepared(tmp_path, tmp_path / "out")
    document = [BPE.eot, *BPE.encode(POEM * 9)]
    assert tokens_in(tmp_path / "out").tolist() == document * 2
    record = jobs.record(1)
    assert record is not None
    assert (record["documents"], record["longest_document"]) == (1, len(document))


def test_batches_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(DOCUMENTS))
    prepared(tmp_path, tmp_path / "one")
    monkeypatch.setattr(preparation, "BATCH", 20)
    prepared(tmp_path, tmp_path / "many")
    assert bytes_in(tmp_path / "one") == bytes_in(tmp_path / "many")


class Wide(CharTokenizer):
    """Characters, and more tokens than 16 bits can name."""

    def __init__(self, *, characters: str) -> None:
        super().__init__(characters=characters)
        self.vocab_size, self.eot = 1 << 17, 1 << 16


def test_a_large_vocabulary_has_tokens_of_four_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(POEM)
    wide = Wide(characters="".join(sorted(set(POEM))))
    prepared(tmp_path / "a.txt", tmp_path / "out", tokenizer=wide)
    assert open_shard(tmp_path / "out" / "corpus_train_000000.bin").dtype == "<u4"
    assert tokens_in(tmp_path / "out").tolist() == [wide.eot, *wide.encode(POEM)]
    (tmp_path / "b.txt").write_text("Z")
    with pytest.raises(UserError, match=r"b.txt: .*'Z'"):
        prepared(tmp_path / "b.txt", tmp_path / "other", tokenizer=wide)


def some_files(place: Path) -> Path:
    source = place / "source"
    source.mkdir()
    for number in range(5):
        (source / f"{number}.jsonl").write_bytes(as_jsonl([f"{number} {n} {POEM}" for n in range(3)]))
    return source


def times(to: Path) -> dict[str, int]:
    return {place.name: place.stat().st_mtime_ns for place in to.iterdir()}


def test_only_what_has_changed_is_made_again(tmp_path: Path) -> None:
    source, to = some_files(tmp_path), tmp_path / "out"
    prepared(source, to)
    first = times(to)
    prepared(source, to)
    assert times(to) == first
    (source / "2.jsonl").write_bytes(as_jsonl(["new"]))
    (to / "corpus_train_000004.bin").write_bytes(b"cut")
    prepared(source, to)
    changed = {name for name, at in times(to).items() if first.get(name) != at}
    assert changed == {f"corpus_{kind}_000004.bin" for kind in ("train", "val")} | {
        *("corpus_train_000002.bin", "corpus_000002.json", "corpus_000004.json")  # one token of three: no validation
    }
    assert not (to / "corpus_val_000002.bin").exists()
    (source / "4.jsonl").unlink()
    prepared(source, to, val_fraction=0)
    assert sorted(times(to)) == sorted(
        f"corpus_{n}" for i in range(4) for n in (f"00000{i}.json", f"train_00000{i}.bin")
    )


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    source, to = some_files(tmp_path), tmp_path / "out"
    left = to / ".corpus_000001.abc"
    left.mkdir(parents=True)
    (left / "train").write_text("half")
    (to / "corpus_train_000001.bin").write_text("half")
    (to / "corpus_000001.json.tmp").write_text("half")
    prepared(source, to)
    assert len(list(to.iterdir())) == 15


def test_a_failed_job_leaves_nothing_and_the_others_stay(tmp_path: Path) -> None:
    source, to = some_files(tmp_path), tmp_path / "out"
    (source / "1.jsonl").write_text('{"text": ')
    with pytest.raises(UserError, match=r"1.jsonl, after row 0: Expecting value$"):
        prepared(source, to)
    assert sorted(times(to)) == ["corpus_000000.json", "corpus_train_000000.bin", "corpus_val_000000.bin"]


def test_the_directory_of_another_corpus_is_refused(tmp_path: Path) -> None:
    source = some_files(tmp_path)
    prepared(source, tmp_path / "out")
    with pytest.raises(UserError, match=r"out has the shards of path=.*source: name another directory"):
        prepared(source / "1.jsonl", tmp_path / "out")


def test_a_job_that_another_process_does_is_left_to_it(tmp_path: Path) -> None:
    source, to = some_files(tmp_path) / "1.jsonl", tmp_path / "out"
    made: list[int] = []
    jobs_of(source, to).make(0, lambda n: made.append(jobs_of(source, to).make(0, print)))
    assert made
    assert set(made) == {0}
    assert jobs_of(source, to).record(0) is not None
    assert not list(to.glob(".*"))


def test_earlier_shards_stay_until_there_are_new_ones_and_texts_know_no_column(tmp_path: Path) -> None:
    source, to = some_files(tmp_path), tmp_path / "out"
    prepared(source, to)
    before = times(to)
    with pytest.raises(UserError, match="no column body"):
        prepared(source, to, column="body")
    assert times(to) == before


def test_a_file_that_is_written_meanwhile_is_named(tmp_path: Path) -> None:
    source = some_files(tmp_path) / "1.jsonl"
    jobs = jobs_of(source, tmp_path / "out")
    with pytest.raises(UserError, match=r"1.jsonl has changed while it was read"):
        jobs.make(0, lambda n: source.write_text("{}"))
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_cut_or_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(32, 127, 100_000, dtype=np.uint8).tobytes()
    (tmp_path / "a.txt.zst").write_bytes(zstd(noise)[:-1000])
    with pytest.raises(UserError, match=r"a.txt.zst cannot be read: .*[Tt]runcated"):
        prepared(tmp_path / "a.txt.zst", tmp_path / "out")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"a.parquet, after row 0: "):
        prepared(tmp_path / "a.parquet", tmp_path / "out")
    write_parquet(tmp_path / "b.parquet", ["a"])
    with pytest.raises(
        UserError, match=r"b.parquet, row 1 has no column texts; did you mean text\? \(it has id, text\)"
    ):
        prepared(tmp_path / "b.parquet", tmp_path / "out", column="texts")
    with pytest.raises(UserError, match=r"CharTokenizer has no end-of-text token"):
        prepared(tmp_path / "b.parquet", tmp_path / "out", tokenizer=CharTokenizer(characters="a"))
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("a.txt.zst", "b.parquet"):
        with pytest.raises(UserError, match=rf"{name} needs pyarrow: pip install 'gptlab\[parquet\]'"):
            prepared(tmp_path / name, tmp_path / "out")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer."""
    place = tmp_path_factory.mktemp("model")
    save_gpt2(place, vocab_size=BPE.vocab_size)
    BPE.to_tokenizers().save(str(place / "tokenizer.json"))
    return place


def test_processes_and_shards_write_the_same_bytes(workplace: Path, model: Path, gptlab: Command) -> None:
    some_files(workplace)
    words = ("prepare", "path=source", "val_fraction=0.2", f"checkpoint={model}")
    one = gptlab(*words, "to=one")
    assert one.status == 0, one.err
    assert "15 documents" in one.out
    again = gptlab(*words, "to=one")
    assert "tokens/s" in one.out
    assert "tokens/s" not in again.out
    assert again.out.splitlines()[-1] == one.out.splitlines()[-1]
    assert "3 of 5 files are prepared" in gptlab(*words, "to=shards", "shard=0/2").out
    assert "15 documents" in gptlab(*words, "to=shards", "shard=1/2").out
    two = gptlab(*words, "to=two", "workers=2")
    assert two.status == 0, two.err
    assert bytes_in(Path("one")) == bytes_in(Path("shards")) == bytes_in(Path("two"))
    assert len(bytes_in(Path("one"))) == 10


@pytest.mark.slow
def test_one_bad_file_does_not_stop_other_processes(workplace: Path, model: Path, gptlab: Command) -> None:
    (some_files(workplace) / "1.jsonl").write_text("{")
    result = gptlab("prepare", "path=source", "to=out", f"checkpoint={model}", "workers=2")
    assert result.status == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert not list(Path("out").glob(".*"))
    assert {"corpus_000000.json", "corpus_000002.json", "corpus_000004.json"} <= {p.name for p in Path("out").iterdir()}


def test_a_corpus_without_text_is_named(workplace: Path, model: Path, gptlab: Command) -> None:
    Path("void.jsonl").write_text('{"text": ""}\n')
    result = gptlab("prepare", "path=void.jsonl", "to=out", f"checkpoint={model}")
    assert (result.status, result.err) == (2, "error: path=void.jsonl: there is no text in it\n")


@needs_gpt2_vocabulary
@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_command_that_is_printed_trains(workplace: Path, model: Path, gptlab: Command, checkpoint: bool) -> None:
    words = [f"checkpoint={model}"] if checkpoint else []
    result = gptlab("prepare", "path=poem.txt", "to=out", "val_fraction=0.1", *words)
    _, command, *rest = result.out.splitlines()[-1].split()
    assert rest == ["data=shards", "data.path=out", f"init_from={model}" if checkpoint else "tokenizer=gpt2"]
    tiny = [] if checkpoint else ["model.n_layers=1", "model.d_model=16", "model.n_heads=2"]
    trained = gptlab(command, *rest, *tiny, "context_length=16", "batch_size=2", "max_steps=1", "trainer=cpu")
    assert trained.status == 0, trained.err


JOBS = """
import sys
from gptlab.data.preparation import Preparation
from gptlab.tokenizer.bpe import BPETokenizer
from conftest import POEM
jobs = Preparation(path=sys.argv[1], to=sys.argv[2], column="text", val_fraction=0.1,
                   tokenizer=BPETokenizer.train([POEM], vocab_size=280))
print("ready", flush=True)
for number in range(len(jobs.files)):
    if jobs.record(number) is None:
        jobs.make(number, lambda n: None)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def start(source: Path, to: Path) -> subprocess.Popen:
    """A process that does all jobs, when it is about to begin."""
    paths = os.pathsep.join((str(Path(__file__).parents[1]), *sys.path))
    command = [sys.executable, "-c", JOBS, str(source), str(to)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_what_is_killed_at_any_moment_and_started_again_gives_the_same_bytes(tmp_path: Path, number: int) -> None:
    source, to = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for name in range(4):
        (source / f"{name}.jsonl").write_bytes(as_jsonl([f"{name} {n} {POEM}" for n in range(5000)]))
    prepared(source, tmp_path / "whole")
    began = time.monotonic()
    start(source, to).communicate()
    seconds, moments = time.monotonic() - began, random.Random(0)
    n_killed = 0
    for _ in range(20 if number == signal.SIGKILL else 5):
        for place in to.iterdir():
            if moments.random() < 0.7 and place.is_file():
                place.unlink()
        process = start(source, to)
        time.sleep(moments.random() * seconds / 3)
        process.send_signal(number)
        n_killed += process.wait() != 0
        left = {place.name for place in to.iterdir()}
        assert number == signal.SIGKILL or not any(name.startswith(".") or name.endswith(".tmp") for name in left)
    assert n_killed
    start(source, to).communicate()
    assert bytes_in(to) == bytes_in(tmp_path / "whole")
    assert {place.name for place in to.iterdir()} == {place.name for place in (tmp_path / "whole").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_memory_is_flat(tmp_path: Path, kind: str) -> None:
    peaks = []
    for n_megabytes in (12, 72):
        path, documents = tmp_path / f"{n_megabytes}.{kind}", [POEM * 20] * (n_megabytes * 1_000_000 // len(POEM) // 20)
        if kind == "parquet":
            write_parquet(path, documents)
        else:
            path.write_bytes(as_jsonl(documents) if kind == "jsonl" else "".join(documents).encode())
        out, _ = start(path, tmp_path / f"out{n_megabytes}").communicate()
        peaks.append(int(out) / 1000)
    assert peaks[1] - peaks[0] < 40, peaks
