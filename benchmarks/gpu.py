"""What a CUDA card makes of gptlab, in less than nine minutes: is it right, how fast does it train and generate.

    pip install -e ".[dev]"
    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --batch 4   # less than 40 GB of memory
    python benchmarks/gpu.py --tiny   # on the CPU: whether this script runs

Right: the curves of fp32, bf16 and fp16 beside the CPU's, a resumed run beside one in one piece, greedy text beside the
CPU's, `gptlab inspect`. Training: GPT-2 small, T = 1024, bf16, compiled, beside transformers and the same model in a
compiled loop written by hand; MFU is the share of the card's bf16 peak. Generation: beside transformers with its static
cache. The speeds are medians of as many rounds as there is time for. Exits with 1 if something is not right.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import generate
import harness
import train_step

TOLERANCE = {"32": 0.01, "16": 0.05, "bf16": 0.05}  # nats per token, of the mean over the last steps
RECENT = 5
TRAINING = {"layers": 12, "heads": 12, "width": 768, "context": 1024, "batch": 16, "vocabulary": 50257, "steps": 60}


def last_loss(run_dir: Path) -> float:
    """Mean training loss of the last steps."""
    losses = [row["train/loss"] for row in harness.metrics(run_dir) if "train/loss" in row]
    return statistics.mean(losses[-RECENT:])


class Checks:
    """Small runs, and what must be true of them. Everything lies in `place`."""

    def __init__(self, sizes: argparse.Namespace, place: Path) -> None:
        self.place, self.device, self.steps = place, sizes.device, 8 if sizes.tiny else 60
        self.words = ["data=text", f"data.path={__file__}", f"data.cache_dir={place}", "tokenizer=char"]
        self.words += [
            "optimizer=adamw",
            "schedule=constant",
            "schedule.warmup_steps=0",
            "callbacks.samples=null",
            "trainer.devices=1",
        ]
        self.words += ["model.n_layers=1", "model.d_model=32", "context_length=32"] if sizes.tiny else []

    def train(self, name: str, *words: str, steps: int, precision: str = "32", device: str | None = None) -> float:
        """The loss of a new run."""
        where = [f"trainer.accelerator={device or self.device}", f"trainer.precision={precision}"]
        lengths = [f"max_steps={steps}", f"validate_every={steps}", f"run_dir={self.place / name}"]
        harness.gptlab("train", *self.words, *where, *lengths, *words)
        return last_loss(self.place / name)

    def curves(self) -> tuple[bool, str]:
        """Whether all precisions learn what the CPU learns in fp32."""
        reference = self.train("cpu", steps=self.steps, device="cpu")
        names = ["32", "bf16", *(["16"] if self.device == "cuda" else [])]
        found = {name: self.train(name, steps=self.steps, precision=name) for name in names}
        passed = all(abs(loss - reference) < TOLERANCE[name] for name, loss in found.items())
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in found.items())
        return passed, f"loss on the CPU {reference:.4f}; here {losses}"

    def resume(self) -> tuple[bool, str]:
        """Whether a run in two pieces ends as one in one piece: CUDA's atomic sums have no order."""
        self.train("pieces", steps=self.steps // 2)
        settings = [f"max_steps={self.steps}", f"validate_every={self.steps}"]
        harness.gptlab("train", f"resume={self.place / 'pieces'}", *settings)
        whole, pieces = last_loss(self.place / "32"), last_loss(self.place / "pieces")
        return abs(whole - pieces) < (1e-3 if self.device == "cuda" else 1e-9), f"{whole:.6f} and {pieces:.6f}"

    def text(self) -> tuple[bool, str]:
        """Whether greedy text is the CPU's."""
        words = [f"checkpoint={self.place / '32'}", "prompt=import ", "greedy=true", "max_new_tokens=40"]
        here, there = (
            harness.gptlab("generate", *words, f"accelerator={device}")[0] for device in (self.device, "cpu")
        )
        return here == there, repr(here)

    def inspect(self) -> tuple[bool, str]:
        """Whether `gptlab inspect` writes its page."""
        words = [f"checkpoint={self.place / '32'}", "prompt=import ", f"to={self.place / 'page'}"]
        harness.gptlab("inspect", *words, f"accelerator={self.device}")
        names = sorted(path.name for path in (self.place / "page").iterdir())
        return "index.html" in names, ", ".join(names)


def all_checks(sizes: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Make them, and print what they found."""
    results = {}
    with tempfile.TemporaryDirectory() as place:
        checks = Checks(sizes, Path(place))
        for check in (checks.curves, checks.resume, checks.text, checks.inspect):
            try:
                passed, found = check()
            except (SystemExit, Exception) as error:  # the next check may tell more
                passed, found = False, str(error)
            results[check.__name__] = {"passed": passed, "found": found}
            print(f"{check.__name__:10} {'right' if passed else 'WRONG'}: {found}", flush=True)
    return results


def with_mfu(measure: Callable[[], harness.Numbers], peak: float) -> Callable[[], harness.Numbers]:
    def measured() -> harness.Numbers:
        numbers = measure()
        return {**numbers, "MFU %": 100e12 * numbers["TFLOP/s"] / peak}

    return measured


def card(device: str) -> tuple[str, float]:
    """Its name, and the peak of its bf16 products in FLOP/s: of the data sheet, or measured."""
    import torch

    from gptlab.training.machine import peak_flops

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA card here; --tiny runs on the CPU, to see that this script works")
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return name, peak_flops(device, "bf16-mixed")[0]


def main() -> int:
    parser = harness.Parser(__doc__, sizes={**TRAINING, "prompt": 32, "new": 200}, tiny={**train_step.TINY, "new": 8})
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cuda, with --tiny cpu")
    parser.add_argument("--minutes", type=float, default=8.5, help="no round begins that would end later")
    sizes = parser.parse_args()
    sizes.device = sizes.device or ("cpu" if sizes.tiny else "cuda")
    began, on_cuda = time.monotonic(), sizes.device == "cuda"
    fixed: dict[str, Any] = {"precision": "bf16", "compile": on_cuda, "peer": [], "directory": None}
    fixed |= {"precisions": ["bf16"], "batches": [2] if sizes.tiny else [1, 16], "static": on_cuda}
    sizes.__dict__.update(fixed)

    name, peak = harness.in_process(card, sizes.device)
    print(f"{name}, bf16 peak {peak / 1e12:.4g} TFLOP/s", flush=True)
    checks = all_checks(sizes)
    print()
    table = harness.Table(sizes, {**train_step.COLUMNS, "MFU %": ".1f"}, ratio_of=["tokens/s"])
    table.content |= {"card": name, "bf16 peak": peak, "checks": checks}
    table.deadline = began + 60 * sizes.minutes * 2 / 3
    with train_step.data(sizes):
        runs = {who: with_mfu(run, peak) for who, run in train_step.contenders(sizes).items()}
        table.compare("train", runs, to=["bare", "transformers"])
    print()
    table.begin(generate.COLUMNS, ratio_of=["tokens/s"])
    table.deadline = began + 60 * sizes.minutes
    generate.compare(sizes, table)
    return 0 if all(check["passed"] for check in checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
