"""Time and memory of loading a GPT-2, compared with transformers' from_pretrained on the same directory.

    python benchmarks/load.py               # random weights in the shape of GPT-2 small, 0.5 GB of temporary files
    python benchmarks/load.py <directory>   # a Hugging Face directory

Both load and then make one forward pass over 8 tokens: transformers maps the file and reads it when the weights are
used, gptlab transposes four matrices of each block while it reads, so only the sum can be compared. Neither loads a
tokenizer. Each load is a process of its own. Memory is what it holds by itself at its peak above what its imports hold
(RssAnon; the pages of the mapped file are the system's and can be given up at any time), in weights: 1 is one copy.
"""

import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import harness

COLUMNS = {"import s": ".3f", "load s": ".3f", "load + use s": ".3f", "all s": ".3f", "memory": ".3f"}
SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
TINY_SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64, "vocab_size": 128}


def load(who: str, directory: str) -> harness.Numbers:
    """Load the directory and use the model."""
    began = time.perf_counter()
    import torch

    if who == "gptlab":
        from gptlab.checkpoint import hugging_face

        hugging_face._read_tokenizer = lambda *_: None  # it may need a download
        load, logits = lambda: hugging_face.load_directory(Path(directory), directory).model, lambda out: out
    else:
        from transformers import GPT2LMHeadModel

        load, logits = lambda: GPT2LMHeadModel.from_pretrained(directory), lambda out: out.logits
    imported, before = time.perf_counter(), harness.memory_mb("RssAnon")
    seen, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(harness.memory_mb("RssAnon"))

    threading.Thread(target=watch, daemon=True).start()
    with torch.inference_mode():
        model = load().eval()
        loaded = time.perf_counter()
        logits(model(torch.arange(8)[None]))
    used = time.perf_counter()
    done.set()
    megabytes = sum(parameter.nbytes for parameter in model.parameters()) / 1e6
    times = (imported - began, loaded - imported, used - imported, used - began)
    return dict(zip(COLUMNS, (*times, (max(seen) - before) / megabytes), strict=True))


def make(directory: str, *, tiny: bool, **changed: int) -> None:
    """A GPT-2 with random weights, as a Hugging Face directory."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {**(TINY_SHAPE if tiny else SHAPE), **changed}
    GPT2LMHeadModel(GPT2Config(bos_token_id=None, eos_token_id=None, **shape)).save_pretrained(directory)


def main() -> None:
    parser = harness.Parser(__doc__, sizes={}, tiny={})
    parser.add_argument("directory", nargs="?")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.directory is None:
            harness.in_process(partial(make, temporary, tiny=arguments.tiny))
        sides = {
            who: partial(harness.in_process, load, who, arguments.directory or temporary)
            for who in ("gptlab", "transformers")
        }
        for measure in sides.values():
            measure()  # brings the file into the system's cache
        table = harness.Table(arguments, COLUMNS, ratio_of=["load + use s", "all s", "memory"])
        table.compare("load", sides, to=["transformers"])


if __name__ == "__main__":
    sys.exit(main())
