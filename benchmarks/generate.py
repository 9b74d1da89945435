"""How fast GPT-2 small generates on a CPU, compared with transformers' `generate` on the same weights.

    python benchmarks/generate.py               # random weights in the shape of GPT-2 small, 0.5 GB of temporary files
    python benchmarks/generate.py <directory>   # an existing Hugging Face directory
    python benchmarks/generate.py --tiny        # a tiny model, in seconds: whether this script still runs

200 new tokens after a prompt of 32, greedy, for one sequence and for 16 at once, in fp32 and bf16. Each measurement is
a process of its own that loads, generates once to warm up, and then counts; the two take turns, medians are compared,
and the ratio is the median of the pairs' ratios. Both read the clock around the whole generation, prompt included.
`first` is the time to the first token of the prompt's pass, `memory` the process's peak (VmHWM, mapped weights
included).

Exits with 1 if a ratio is below 2; of --tiny, ratios mean nothing.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile

PROMPT_TOKENS, NEW_TOKENS = 32, 200
VOCABULARY = 50256  # with GPT-2's own 50257, loading would look for its tokenizer
WANTED_RATIO = 2.0
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64}

GENERATE = {
    "gptlab": """
from gptlab import load
from gptlab.generation.decoding import generate
from gptlab.generation.preparation import prepare_for_inference
from gptlab.generation.sampling import greedy

model = load(directory).model
prepare_for_inference(model, device="cpu", precision=precision, n_rows=n_rows, compile=compiles)

def run(n):
    for tokens in generate(model, prompts, max_new_tokens=n, sampler=greedy):
        pass
    return tokens
""",
    "transformers": """
from transformers import GPT2LMHeadModel

dtype = {"32": torch.float32, "bf16": torch.bfloat16}[precision]
model = GPT2LMHeadModel.from_pretrained(directory, dtype=dtype).eval()
ids = torch.tensor(prompts)

@torch.inference_mode()
def run(n):
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0)
    return out[:, -1].tolist()
""",
}
MEASURE = """
import json, statistics, sys, time
import torch

directory, precision, n_rows, compiles, new_tokens = json.loads(sys.argv[1])
generator = torch.Generator().manual_seed(0)
prompts = torch.randint({vocabulary}, (n_rows, {prompt_tokens}), generator=generator).tolist()
{generate}

def seconds(n):
    began = time.perf_counter()
    run(n)
    return time.perf_counter() - began

seconds(8)
first = statistics.median(seconds(1) for _ in range(3))
whole = seconds(new_tokens)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([n_rows * new_tokens / whole, first, peak / 1e3]))
"""


def measure(who: str, *settings: object) -> list[float]:
    """Tokens per second, seconds to the first token, megabytes."""
    code = MEASURE.replace("{generate}", GENERATE[who])
    for name, value in {"vocabulary": VOCABULARY, "prompt_tokens": PROMPT_TOKENS}.items():
        code = code.replace(f"{{{name}}}", str(value))
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps(settings)], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        sys.exit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def make(directory: str, **sizes: int) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=None, **sizes)).save_pretrained(
        directory
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--precisions", nargs="+", default=["32", "bf16"])
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--compile", action="store_true", help="gptlab with torch's compiler")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, one round")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.tiny else 5)
    batches = arguments.batches or ([2] if arguments.tiny else [1, 16])
    new_tokens = 16 if arguments.tiny else NEW_TOKENS
    missed = 0
    columns = ("tokens/s", "first s", "memory MB")
    print(f"{'precision':>9} {'batch':>5}  {'':14}" + "".join(f"{column:>12}" for column in columns) + f"{'ratio':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.directory is None:
            make(temporary, **(TINY if arguments.tiny else {}))
        directory = arguments.directory or temporary
        for precision in arguments.precisions:
            for n_rows in batches:
                rows: dict[str, list[list[float]]] = {who: [] for who in GENERATE}
                for _ in range(rounds):
                    for who, found in rows.items():
                        compiles = arguments.compile and who == "gptlab"
                        found.append(measure(who, directory, precision, n_rows, compiles, new_tokens))
                pairs = zip(rows["gptlab"], rows["transformers"], strict=True)
                ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
                missed += ratio < WANTED_RATIO
                for who, found in rows.items():
                    speed, first, memory = (statistics.median(column) for column in zip(*found, strict=True))
                    shown = f"{ratio:8.2f}" if who == "gptlab" else ""
                    line = f"{precision:>9} {n_rows:>5}  {who:14}{speed:12.1f}{first:12.3f}{memory:12,.0f}{shown}"
                    print(line, flush=True)
    if missed and not arguments.tiny:
        print(f"{missed} of the ratios are below {WANTED_RATIO}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
