"""Tokens a second of `gptlab prepare`, compared with tiktoken alone and with `datasets.map`, all on one core.

    python benchmarks/prepare.py
    python benchmarks/prepare.py --megabytes 200 --workers 2   # also with so many processes

The corpus is Python's standard library, repeated, as one .jsonl file for each worker. `tiktoken` is
encode_ordinary_batch in one thread, on texts that are in memory already; it reads and writes nothing. `gptlab prepare`
and `datasets.map` read the files and write tokens. Seconds are of the work itself, without imports and the start of
processes. Each contender runs in a process of its own. Without the package datasets, its contender is left out.
"""

import argparse
import importlib.util
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import harness

SIZES = {"megabytes": 32, "workers": 1}
TINY = {"megabytes": 1}


def write_corpus(place: Path, n_bytes: int, n_files: int) -> None:
    """Files of so many bytes in all."""
    import sysconfig

    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [json.dumps({"text": module.read_text(encoding="utf-8", errors="replace")}) for module in modules]
    for number in range(n_files):
        written, turn = 0, number
        with (place / f"{number}.jsonl").open("w") as file:
            while written < n_bytes // n_files:
                written += file.write(texts[turn % len(texts)] + "\n")
                turn += 1


def jobs(place: str) -> object:
    from gptlab.data.preparation import Preparation

    words = {"path": f"{place}/*.jsonl", "to": f"{place}/out", "column": "text", "val_fraction": 0.0}
    return Preparation(**words, tokenizer=tokenizer())


def tokenizer() -> object:
    """GPT-2's, or one of the same kind that is learnt from a few texts if GPT-2's cannot be had."""
    from gptlab.tokenizer.bpe import BPETokenizer
    from gptlab.tokenizer.gpt2 import GPT2Tokenizer

    try:
        return GPT2Tokenizer()
    except ValueError:
        return BPETokenizer.train([Path(json.__file__).read_text()], vocab_size=512)


def make(place: str, number: int) -> harness.Numbers:
    work = jobs(place)
    for done in work.to.glob(f"corpus*{number:06d}.*"):  # of an earlier round
        done.unlink()
    began = time.perf_counter()
    work.make(number, lambda n: None)
    return {"tokens": work.record(number)["train_tokens"], "seconds": time.perf_counter() - began}


def ours(place: str, n_files: int, n_processes: int) -> harness.Numbers:
    """Jobs in processes; the slowest one counts."""
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn")) as pool:
        done = list(pool.map(partial(make, place), range(n_files)))
    seconds = sum(one["seconds"] for one in done) if n_processes == 1 else max(one["seconds"] for one in done)
    return {"M tokens/s": sum(one["tokens"] for one in done) / seconds / 1e6}


def texts_of(place: str) -> list[str]:
    return [json.loads(line)["text"] for file in sorted(Path(place).glob("*.jsonl")) for line in file.open()]


def tiktoken_alone(place: str) -> harness.Numbers:
    texts, encoding = texts_of(place), tokenizer()._encoding
    began = time.perf_counter()
    n_tokens = sum(map(len, encoding.encode_ordinary_batch(texts, num_threads=1)))
    return {"M tokens/s": n_tokens / (time.perf_counter() - began) / 1e6}


def datasets_map(place: str) -> harness.Numbers:
    import datasets

    datasets.disable_progress_bars()
    encoding = tokenizer()._encoding
    began = time.perf_counter()
    files = [str(file) for file in sorted(Path(place).glob("*.jsonl"))]
    rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=tempfile.mkdtemp(dir=place))
    rows = rows.map(
        lambda batch: {"ids": encoding.encode_ordinary_batch(batch["text"], num_threads=1)},
        batched=True,
        remove_columns=["text"],
    )
    seconds = time.perf_counter() - began
    return {"M tokens/s": sum(map(len, rows["ids"])) / seconds / 1e6}


def contenders(sizes: argparse.Namespace, place: str) -> dict[str, partial[harness.Numbers]]:
    found = {
        "gptlab": partial(ours, place, sizes.workers, 1),
        "tiktoken": partial(harness.in_process, tiktoken_alone, place),
    }
    if sizes.workers > 1:
        found[f"gptlab, {sizes.workers} processes"] = partial(ours, place, sizes.workers, sizes.workers)
    if importlib.util.find_spec("datasets") is None:
        print("datasets is not installed (pip install datasets): it is left out")
    else:
        found["datasets.map"] = partial(harness.in_process, datasets_map, place)
    return found


def main() -> None:
    sizes = harness.Parser(__doc__, sizes=SIZES, tiny=TINY).parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_corpus(Path(place), sizes.megabytes * 1_000_000, sizes.workers)
        table = harness.Table(sizes, {"M tokens/s": ".2f"}, ratio_of=["M tokens/s"])
        table.compare(f"{sizes.megabytes} MB", contenders(sizes, place), to=["tiktoken"])


if __name__ == "__main__":
    main()
