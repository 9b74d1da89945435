"""How fast GPT-2 small generates, compared with transformers' `generate` on the same weights.

    python benchmarks/generate.py               # random weights in the shape of GPT-2 small, 0.5 GB of temporary files
    python benchmarks/generate.py <directory>   # an existing Hugging Face directory
    python benchmarks/generate.py --device cuda --static   # transformers with its static cache, which it compiles

200 new tokens after a prompt of 32, greedy, for one sequence and for 16 at once, in fp32 and bf16. Each measurement is
a process of its own that loads, generates once to warm up, and then counts. Both read the clock around the whole
generation, prompt included. `first` is the time to the first token, `memory` the process's peak, mapped weights
included, on CUDA the device's. Exits with 1 if a ratio is below 2 on a CPU, or 1 on CUDA.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product

import harness
from load import make

COLUMNS = {"tokens/s": ",.1f", "first s": ".3f", "memory MB": ",.0f"}
VOCABULARY = 50256  # with GPT-2's own 50257, loading would look for its tokenizer
WANTED_RATIO = {"cpu": 2.0, "cuda": 1.0}


Run = Callable[[int], list[int]]
"""Generates so many tokens, and returns the last of each sequence."""


def of_gptlab(prompts: list[list[int]], precision: str, sizes: argparse.Namespace, *, compile: bool) -> Run:
    from gptlab import load
    from gptlab.generation.decoding import generate
    from gptlab.generation.preparation import prepare_for_inference
    from gptlab.generation.sampling import greedy
    from gptlab.memory import keep_freed_memory

    model = load(sizes.directory).model
    settings = {"device": sizes.device, "precision": precision, "n_rows": len(prompts), "compile": compile}
    prepare_for_inference(model, **settings)
    keep_freed_memory()  # as `gptlab generate` does
    return lambda n: list(generate(model, prompts, max_new_tokens=n, sampler=greedy))[-1]


def of_transformers(prompts: list[list[int]], precision: str, sizes: argparse.Namespace) -> Run:
    import torch
    from transformers import GPT2LMHeadModel

    dtype = {"32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = GPT2LMHeadModel.from_pretrained(sizes.directory, dtype=dtype).eval().to(sizes.device)
    ids = torch.tensor(prompts, device=sizes.device)
    settings = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    if sizes.static:
        settings["cache_implementation"] = "static"

    @torch.inference_mode()
    def run(n: int) -> list[int]:
        return model.generate(ids, max_new_tokens=n, min_new_tokens=n, **settings)[:, -1].tolist()

    return run


def measure(make_run: Callable[..., Run], precision: str, n_rows: int, sizes: argparse.Namespace) -> harness.Numbers:
    """Generate, and count."""
    import torch

    generator = torch.Generator().manual_seed(0)
    vocabulary = 128 if sizes.tiny else VOCABULARY
    prompts = torch.randint(vocabulary, (n_rows, sizes.prompt), generator=generator).tolist()
    run = make_run(prompts, precision, sizes)

    def seconds(n: int) -> float:
        began = time.perf_counter()
        run(n)  # returns numbers, so a device has finished
        return time.perf_counter() - began

    seconds(sizes.new if sizes.static or sizes.compile else 8)
    first = statistics.median(seconds(1) for _ in range(3))
    speed = n_rows * sizes.new / seconds(sizes.new)
    on_cuda = sizes.device == "cuda"
    megabytes = torch.cuda.max_memory_allocated() / 1e6 if on_cuda else harness.memory_mb()
    return dict(zip(COLUMNS, (speed, first, megabytes), strict=True))


def compare(sizes: argparse.Namespace, table: harness.Table) -> None:
    """All cells of the table, on random weights if `sizes.directory` is None."""
    with tempfile.TemporaryDirectory() as temporary:
        if sizes.directory is None:
            changed = {} if sizes.tiny else {"vocab_size": VOCABULARY}
            harness.in_process(partial(make, temporary, tiny=sizes.tiny, **changed))
            sizes = argparse.Namespace(**{**vars(sizes), "directory": temporary})
        for precision, n_rows in product(sizes.precisions, sizes.batches):
            sides = {"gptlab": partial(of_gptlab, compile=False), "transformers": of_transformers}
            if sizes.compile:
                sides["gptlab compiled"] = partial(of_gptlab, compile=True)
            runs = {
                who: partial(harness.in_process, measure, run, precision, n_rows, sizes) for who, run in sides.items()
            }
            table.compare(f"{precision}, {n_rows} at once", runs, to=["transformers"])


def main() -> int:
    parser = harness.Parser(__doc__, sizes={"prompt": 32, "new": 200}, tiny={"new": 16})
    parser.add_argument("directory", nargs="?")
    parser.add_argument("--precisions", nargs="+", default=["32", "bf16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--device", choices=tuple(WANTED_RATIO), default="cpu")
    parser.add_argument("--compile", action="store_true", help="also gptlab with torch's compiler")
    parser.add_argument("--static", action="store_true", help="transformers with its static cache")
    sizes = parser.parse_args()
    if sizes.tiny:
        sizes.precisions, sizes.batches = sizes.precisions[-1:], [2]
    table = harness.Table(sizes, COLUMNS, ratio_of=["tokens/s"])
    compare(sizes, table)
    return 0 if sizes.tiny or table.lowest("gptlab") >= WANTED_RATIO[sizes.device] else 1


if __name__ == "__main__":
    sys.exit(main())
