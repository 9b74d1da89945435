"""Token shards of other programs."""

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT, Result, needs_gpt2_vocabulary
from gptlab.data.loader import ShuffledBatches
from gptlab.data.shard_formats import open_shard
from gptlab.data.shards import Joined, Shards
from gptlab.data.windows import EvalWindows, WindowDataset
from gptlab.errors import UserError
from gptlab.tokenizer.char import CharTokenizer
from same_run import summary

Command = Callable[..., Result]
SMALL = ("model.n_layers=1", "model.d_model=16", "model.n_heads=2", "context_length=16", "trainer=cpu")
LETTERS = CharTokenizer(characters="".join(map(chr, range(97, 117))))  # 20 of them


def write_llm_c(
    path: Path, tokens: np.ndarray, *, magic: int = 20240520, version: int = 1, n: int | None = None
) -> Path:
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if n is None else n
    path.write_bytes(header.tobytes() + tokens.astype("<u4" if magic == 20240801 else "<u2").tobytes())
    return path


def some_tokens(n: int, seed: int = 0, high: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(high, size=n)


def prepared(place: Path, *, tokenizer: object = LETTERS, context_length: int = 8, **settings: object) -> object:
    how = {"path": str(place), "val_path": None, "stride": None, "num_workers": 0, "cache_dir": str(place / "cache")}
    return Shards(**{**how, **settings}).prepare(tokenizer, context_length=context_length, progress=lambda _, it: it)


def write_two(place: Path) -> tuple[np.ndarray, np.ndarray]:
    train, val = some_tokens(100), some_tokens(50, seed=1)
    write_llm_c(place / "edu_val_000000.bin", val)
    write_llm_c(place / "edu_train_000001.bin", train)
    return train, val


@pytest.mark.parametrize(("magic", "version", "high"), [(20240520, 1, 60_000), (20240801, 7, 128_000)])
def test_llm_c_s_shards_are_read_by_their_header(tmp_path: Path, magic: int, version: int, high: int) -> None:
    tokens = some_tokens(100, high=high)
    shard = open_shard(write_llm_c(tmp_path / "a.bin", tokens, magic=magic, version=version))
    assert shard.tokens().tolist() == tokens.tolist()
    assert (shard.kind, shard.end_token) == ("llm.c", "leads")


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_datatrove_s_files_are_read_by_their_index(tmp_path: Path, dtype: str) -> None:
    tokens = some_tokens(100)
    (tmp_path / "00000.ds").write_bytes(tokens.astype(dtype).tobytes())
    np.array([30, 100], "<u8").tofile(tmp_path / "00000.ds.index")
    shard = open_shard(tmp_path / "00000.ds")
    assert shard.tokens().tolist() == tokens.tolist()
    assert (shard.kind, shard.end_token) == ("datatrove", "trails")


def test_names_say_which_shards_are_for_validation_unless_told_otherwise(tmp_path: Path) -> None:
    train, val = write_two(tmp_path)
    found = prepared(tmp_path)
    assert "2 shards (llm.c), 150 tokens (50 for validation)" in found.description
    assert found.val.batch(np.array([0]))[0].tolist() == [val[:8].tolist()]
    assert found.train.batch(np.array([1]))[0].tolist() == [train[8:16].tolist()]
    assert prepared(tmp_path, val_path=str(tmp_path / "edu_train*")).val.batch(np.array([0]))[0].tolist() == [
        train[:8].tolist()
    ]


def test_nanogpt_s_characters_come_with_its_files(tmp_path: Path, gptlab: Command) -> None:
    text = "the fog comes on little cat feet. " * 30
    known = sorted(set(text))
    for name, part in {"train": text[:700], "val": text[700:]}.items():
        np.array([known.index(c) for c in part], "<u2").tofile(tmp_path / f"{name}.bin")
    meta = {"vocab_size": len(known), "itos": dict(enumerate(known)), "stoi": {c: n for n, c in enumerate(known)}}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    result = gptlab(
        "train", "data=shards", f"data.path={tmp_path}", *SMALL, "max_steps=4", "batch_size=4", "run_dir=run"
    )
    assert result.status == 0, result.err
    assert summary(Path("run"))["tokens"] == 4 * 4 * 16
    written = gptlab("generate", "checkpoint=run", "prompt=the fog", "max_new_tokens=5")
    assert set(written.out.strip("\n")) <= set(known)


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("touched"),))


def test_a_pickle_that_is_a_program_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.bin", "val.bin"):
        some_tokens(100).astype("<u2").tofile(tmp_path / name)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 1, "itos": Evil()}))
    with pytest.raises(UserError, match=r"meta.pkl is no vocabulary of characters \(it names"):
        prepared(tmp_path, tokenizer=partial(CharTokenizer.train))
    assert not Path("touched").exists()


def test_each_window_of_each_shard_occurs_once_and_stays_within_it(tmp_path: Path) -> None:
    parts = [some_tokens(n, seed=n) for n in (17, 9, 40)]
    joined = Joined([WindowDataset(part, context_length=8, stride=3) for part in parts])
    expected = [part[i : i + 8].tolist() for part in parts for i in range(0, len(part) - 8, 3)]
    indices = np.random.default_rng(0).permutation(len(joined))
    inputs, _ = joined.batch(indices)
    assert inputs.tolist() == [expected[index] for index in indices]
    again = pickle.loads(pickle.dumps(joined))
    assert again.batch(indices)[0].equal(inputs)


def test_a_split_of_several_shards_has_each_target_once() -> None:
    parts = [some_tokens(n, seed=n) for n in (17, 9, 40)]
    joined = Joined([EvalWindows(part, context_length=8, stride=8) for part in parts])
    _, targets = joined.batch(np.arange(len(joined)))
    assert sorted(targets[targets != -100].tolist()) == sorted(t for part in parts for t in part[1:].tolist())
    assert (joined.batch(np.array([], dtype=int))[1] == -100).all()


def test_validation_shards_of_any_length_count_each_target_once(tmp_path: Path) -> None:
    write_two(tmp_path)
    short = some_tokens(5, seed=2)
    write_llm_c(tmp_path / "edu_val_000002.bin", short)
    val = prepared(tmp_path, context_length=16).val
    inputs, targets = val.batch(np.arange(len(val)))
    assert inputs.shape == targets.shape == (5, 16)
    assert (targets != -100).sum() == 49 + 4
    assert (inputs[-1, :4].tolist(), targets[-1, :4].tolist()) == (short[:4].tolist(), short[1:].tolist())


def test_a_second_start_reads_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_two(tmp_path)
    first = prepared(tmp_path)

    def read(_: object) -> str:
        raise AssertionError("a shard was read again")

    monkeypatch.setattr("gptlab.data.shards._read", read)
    assert prepared(tmp_path).fingerprint == first.fingerprint
    assert prepared(tmp_path).val_bytes_per_token == 1


def test_another_content_is_another_fingerprint(tmp_path: Path) -> None:
    train, _ = write_two(tmp_path)
    first = prepared(tmp_path).fingerprint
    write_llm_c(tmp_path / "edu_train_000001.bin", train[::-1])
    assert prepared(tmp_path).fingerprint != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "a.bin is a shard of version 2: version 1 can be read"),
        ({"magic": 7}, r"a.bin is no file of tokens \(its magic number is 7\): shards of llm.c begin with 20240520"),
        ({"n": 101}, "a.bin is not whole: 101 tokens are 202 bytes, it has 200"),
        ({"n": 0}, "a.bin is not whole: 0 tokens are 0 bytes"),
    ],
)
def test_a_file_that_is_no_whole_shard_is_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_shard(write_llm_c(tmp_path / "a.bin", some_tokens(100), **change))


def test_a_resumed_run_names_the_file_that_has_changed(tmp_path: Path, gptlab: Command) -> None:
    train, val = some_tokens(100), some_tokens(50, seed=1)
    meta = {"vocab_size": 20, "itos": {n: chr(97 + n) for n in range(20)}}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    for name, tokens in {"train": train, "val": val}.items():
        tokens.astype("<u2").tofile(tmp_path / f"{name}.bin")
    words = ("data=shards", f"data.path={tmp_path}", *SMALL, "batch_size=2", "max_steps=2", "run_dir=run")
    assert gptlab("train", *words).status == 0
    val[::-1].astype("<u2").tofile(tmp_path / "val.bin")
    refused = gptlab("train", "resume=run", "max_steps=4")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "val.bin has changed since" in refused.err


def test_shards_that_are_shorter_than_a_window_are_left_out(tmp_path: Path) -> None:
    write_two(tmp_path)
    before = prepared(tmp_path)
    write_llm_c(tmp_path / "edu_train_000002.bin", some_tokens(8))
    found = prepared(tmp_path)
    assert len(found.train) == len(before.train)
    assert found.fingerprint == before.fingerprint


def test_every_window_of_two_epochs_occurs_twice_for_any_number_of_ranks(tmp_path: Path) -> None:
    for number in range(1, 4):
        write_llm_c(tmp_path / f"edu_train_{number:06d}.bin", some_tokens(30 * number, seed=number))
    write_llm_c(tmp_path / "edu_val_000000.bin", some_tokens(50))
    examples = prepared(tmp_path).train
    n_steps = 2 * len(examples)
    of_ranks = [
        [
            torch.cat(
                [ShuffledBatches(examples, batch_size=4, seed=1, rank=rank, n_ranks=n)[k][0] for rank in range(n)]
            )
            for k in range(n_steps)
        ]
        for n in (1, 2, 4)
    ]
    assert all(torch.equal(torch.cat(batches), torch.cat(of_ranks[0])) for batches in of_ranks)
    seen = Counter(map(tuple, torch.cat(of_ranks[0])[: 2 * len(examples)].tolist()))
    every = Counter(map(tuple, examples.batch(np.arange(len(examples)))[0].tolist()))
    assert seen == every + every


BIG = """
import json, sys, time
import numpy as np
from gptlab.data.loader import ShuffledBatches
from gptlab.data.shards import Shards
from test_shards import LETTERS

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

began, before = time.perf_counter(), peak()
place = sys.argv[1]
settings = {"path": place, "val_path": None, "stride": None, "num_workers": 0, "cache_dir": place + "/cache"}
data = Shards(**settings).prepare(LETTERS, context_length=1024, progress=lambda _, pieces: pieces)
seconds = time.perf_counter() - began
batches = ShuffledBatches(data.train, batch_size=32, seed=0, rank=0, n_ranks=1)
for k in range(1000):
    batches[k]
print(json.dumps([seconds, peak() - before, len(data.train)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_gigabytes_start_in_a_second_the_second_time_and_take_no_memory(tmp_path: Path) -> None:
    """Fifty files of 200 MB with holes: the disk has to keep a few blocks of them."""
    n = 100_000_000
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, n
    for number in range(50):
        with (tmp_path / f"edu_{'train' if number else 'val'}_{number:06d}.bin").open("wb") as file:
            file.write(header.tobytes())
            file.truncate(1024 + 2 * n)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(Path(__file__).parent), str(ROOT / "tests")]),
    }

    def start() -> list[float]:
        command = [sys.executable, "-c", BIG, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    start()
    seconds, megabytes, n_windows = start()
    assert n_windows == 49 * ((n - 1) // 1024)
    assert seconds < 1
    assert megabytes < 400


def test_what_cannot_be_trained_on_is_one_sentence(tmp_path: Path) -> None:
    train, _ = write_two(tmp_path)
    with pytest.raises(
        UserError, match=r"no shard has the 129 tokens of one window .* the longest, .*edu_train_000001.bin, has 100"
    ):
        prepared(tmp_path, context_length=128)
    with pytest.raises(UserError, match="there is no file of tokens"):
        prepared(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"none of its files is for validation; name data.val_path="):
        prepared(tmp_path, path=str(tmp_path / "edu_train*"))
    train[70] = 20
    write_llm_c(tmp_path / "edu_train_000001.bin", train)
    with pytest.raises(
        UserError, match=r"edu_train_000001.bin: token 20 at position 70 is not in the vocabulary of 20"
    ):
        prepared(tmp_path)
    write_llm_c(tmp_path / "edu_train_000002.bin", train, magic=20240801, version=7)
    with pytest.raises(UserError, match=r"are of different kinds: llm.c <u2, llm.c <u4"):
        prepared(tmp_path)


@needs_gpt2_vocabulary
def test_shards_of_gpt2_tokens_train_and_another_tokenizer_is_refused(tmp_path: Path, gptlab: Command) -> None:
    write_two(tmp_path)
    words = ("data=shards", f"data.path={tmp_path}", *SMALL, "max_steps=2", "batch_size=2")
    result = gptlab("train", *words, "tokenizer=gpt2", "run_dir=run")
    assert result.status == 0, result.err
    assert json.loads(Path("run/summary.json").read_text())["steps"] == 2
    refused = gptlab("train", *words, "tokenizer=bpe", "run_dir=other")
    assert refused.status == 2
    assert "use tokenizer=gpt2, or init_from=" in refused.err
