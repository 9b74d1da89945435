"""Time and memory of loading a GPT-2, compared with transformers' from_pretrained on the same directory.

    python benchmarks/load.py               # random weights in the shape of GPT-2 small, 0.5 GB of temporary files
    python benchmarks/load.py <directory>   # a Hugging Face directory
    python benchmarks/load.py --tiny        # a tiny model, one round: does the benchmark run?

Both load and then make one forward pass over 8 tokens: transformers maps the file and reads it when the weights are
used, gptlab transposes four matrices of each block while it reads, so only the sum can be compared. Neither loads a
tokenizer. Each load is a process of its own; the two take turns, medians are compared. Memory is what a process holds
by itself at its peak above what its imports hold (RssAnon; the pages of the mapped file are the system's and can be
given up at any time), in weights: 1 is one copy.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LOAD = {
    "gptlab": """
from gptlab.checkpoint import hugging_face
hugging_face._read_tokenizer = lambda *_: None  # by hand, because it may need a download
def load(): return hugging_face.load_directory(Path(directory), directory).model
def logits(model, tokens): return model(tokens)
""",
    "transformers": """
from transformers import GPT2LMHeadModel
def load(): return GPT2LMHeadModel.from_pretrained(directory)
def logits(model, tokens): return model(tokens).logits
""",
}
MEASURE = """
import sys, threading, time
from pathlib import Path
began = time.perf_counter()
import torch
directory = sys.argv[1]
{load_and_logits}

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)

imported, before = time.perf_counter(), anonymous()
peak = before
threading.Thread(target=watch, daemon=True).start()
with torch.inference_mode():
    model = load().eval()
    loaded = time.perf_counter()
    logits(model, torch.arange(8)[None])
used = time.perf_counter()
weights = sum(parameter.nbytes for parameter in model.parameters())
print(imported - began, loaded - imported, used - imported, used - began, (peak - before) / weights)
"""
COLUMNS = ("import s", "load s", "load + use s", "all s", "memory")


def measure(who: str, directory: str) -> list[float]:
    code = MEASURE.replace("{load_and_logits}", LOAD[who])
    run = subprocess.run([sys.executable, "-c", code, directory], capture_output=True, text=True, check=True)
    return [float(number) for number in run.stdout.split()]


def make(directory: Path, *, tiny: bool) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 64, "n_positions": 16} if tiny else {}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(directory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?")
    parser.add_argument("--rounds", type=int, default=5, help="loads that are measured, after one that is not")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and one round")
    arguments = parser.parse_args()
    n_rounds = 1 if arguments.tiny else arguments.rounds
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or temporary
        if arguments.directory is None:
            make(Path(temporary), tiny=arguments.tiny)
        found: dict[str, list[list[float]]] = {who: [] for who in LOAD}
        for number in range(n_rounds + 1):
            for who in LOAD:
                numbers = measure(who, directory)
                if number > 0:  # the first brings the file into the system's cache
                    found[who].append(numbers)
    print(f"{'':14}" + "".join(f"{column:>14}" for column in COLUMNS))
    medians = {who: [statistics.median(column) for column in zip(*rows, strict=True)] for who, rows in found.items()}
    for who, row in medians.items():
        print(f"{who:14}" + "".join(f"{number:14.3f}" for number in row))
    ratios = [ours / theirs for ours, theirs in zip(medians["gptlab"], medians["transformers"], strict=True)]
    print(f"{'ratio':14}" + "".join(f"{number:14.2f}" for number in ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
