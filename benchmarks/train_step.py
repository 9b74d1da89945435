"""Training speed and memory of `gptlab train`, beside peers that train a GPT of the same size.

    python benchmarks/train_step.py                       # nanoGPT's CPU recipe: 4 layers, d_model 128, 12 x 64 tokens
    python benchmarks/train_step.py --gpt2                # GPT-2 small, 4 x 256 tokens, in bf16 with --precision bf16
    python benchmarks/train_step.py --gpt2 --batch 8 --context 1024
    python benchmarks/train_step.py --peer nanogpt=<its checkout> --peer gptlab=<another checkout of gptlab>

gptlab is the whole command: Lightning, loader, clipping, logging to TensorBoard and metrics.csv. The others:

    transformers   its GPT2LMHeadModel and loss in a bare loop: forward, backward, clipping, fused AdamW on one batch
    bare           gptlab's model and torch's cross-entropy in that loop
    nanoGPT model  nanoGPT's model and optimizer in that loop
    nanoGPT        its train.py as it is; it has no bf16 on a CPU

Each measurement is a process of its own. Tokens per second are the median of its steps without the first third, memory
is the process's peak, on CUDA that of the device, and TFLOP/s count what the model needs: 6 a weight and token, and
attention's products. The ratio is to the fastest of the peers without `bare`. Exits with 1 if it is below 1.
"""

import argparse
import array
import os
import pickle
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import harness

LR, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0
COLUMNS = {"tokens/s": ",.0f", "ms a step": ",.1f", "TFLOP/s": ",.3f", "memory MB": ",.0f"}
SHAKESPEARE = {"layers": 4, "heads": 4, "width": 128, "context": 64, "batch": 12, "vocabulary": 65, "steps": 100}
GPT2 = {"layers": 12, "heads": 12, "width": 768, "context": 256, "batch": 4, "vocabulary": 50257, "steps": 9}
LOG_EVERY = {"cpu": 1, "cuda": 10}  # steps: reading a loss waits for a device
TINY = {"layers": 1, "heads": 2, "width": 32, "context": 16, "batch": 2, "vocabulary": 65, "steps": 6}


def flops_per_token(sizes: argparse.Namespace) -> float:
    """Of forward and backward, 6 a weight of a matrix; attention over the whole context (arXiv:2204.02311, B)."""
    matrices = 12 * sizes.layers * sizes.width**2 + sizes.vocabulary * sizes.width
    return 6 * matrices + 12 * sizes.layers * sizes.width * sizes.context


def numbers(sizes: argparse.Namespace, step_seconds: list[float], megabytes: float) -> harness.Numbers:
    """The columns, from the seconds of each step."""
    seconds = statistics.median(step_seconds[len(step_seconds) // 3 :])
    speed = sizes.batch * sizes.context / seconds
    tera = speed * flops_per_token(sizes) / 1e12
    return {"tokens/s": speed, "ms a step": 1e3 * seconds, "TFLOP/s": tera, "memory MB": megabytes}


def words(sizes: argparse.Namespace) -> list[str]:
    """The settings of gptlab for these sizes."""
    return [
        *(f"data=text data.path={sizes.place}/text.txt data.stride=1 data.cache_dir={sizes.place}".split(" ")),
        *("tokenizer=char", f"model.n_layers={sizes.layers}", f"model.n_heads={sizes.heads}"),
        *(f"model.d_model={sizes.width}", f"context_length={sizes.context}", f"batch_size={sizes.batch}"),
        *(f"max_steps={sizes.steps}", f"validate_every={sizes.steps}", "trainer.limit_val_batches=1"),
        *("optimizer=adamw", f"optimizer.lr={LR}", f"optimizer.betas={list(BETAS)}", f"grad_clip={CLIP}"),
        *("schedule=constant", "schedule.warmup_steps=0", "callbacks.checkpoints=null", "callbacks.samples=null"),
        *(f"trainer.accelerator={sizes.device}", "trainer.devices=1", f"trainer.precision={sizes.precision}"),
        *([f"log_every={LOG_EVERY[sizes.device]}"] if sizes.device != "cpu" else []),
        *(["compile=true"] if sizes.compile else []),
    ]


def gptlab(sizes: argparse.Namespace, checkout: Path = harness.ROOT) -> harness.Numbers:
    """`gptlab train`, of this checkout or another one."""
    more: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        run_dir, peak = Path(temporary, "run"), Path(temporary, "peak")
        if sizes.device == "cuda":
            more = ["+callbacks.peak._target_=profile_step.PeakMemory", f"+callbacks.peak.path={peak}"]
        _, megabytes = harness.gptlab("train", *words(sizes), *more, f"run_dir={run_dir}", checkout=checkout)
        rows = [(row["step"], row["seconds"]) for row in harness.metrics(run_dir) if "seconds" in row]
        megabytes = float(peak.read_text()) if more else megabytes
    return numbers(sizes, [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(rows)], megabytes)


def bare_loop(make: Callable[..., tuple[Any, Any, Any]], sizes: argparse.Namespace, *more: Any) -> harness.Numbers:
    """The loop that one writes by hand, around the model, loss and optimizer that `make` returns."""
    import torch

    torch.manual_seed(0)
    inputs, targets = torch.randint(sizes.vocabulary, (2, sizes.batch, sizes.context), device=sizes.device)
    model, loss_of, optimizer = make(sizes, *more)
    if sizes.compile:
        loss_of = torch.compile(loss_of)
    autocast = torch.autocast(sizes.device, torch.bfloat16, enabled=sizes.precision == "bf16")
    n_steps, times = LOG_EVERY[sizes.device], [time.perf_counter()]
    for step in range(1, sizes.steps + 1):
        with autocast:
            loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % n_steps == 0:
            loss.item()
            times.append(time.perf_counter())
    on_cuda = sizes.device == "cuda"
    megabytes = torch.cuda.max_memory_allocated() / 1e6 if on_cuda else harness.memory_mb()
    return numbers(sizes, [(b - a) / n_steps for a, b in pairwise(times)], megabytes)


def adamw(model: Any) -> Any:
    from torch.optim import AdamW

    return AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY, fused=True)


def transformers(sizes: argparse.Namespace) -> tuple[Any, Any, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_layer": sizes.layers, "n_head": sizes.heads, "n_embd": sizes.width, "n_positions": sizes.context}
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"))
    config = GPT2Config(vocab_size=sizes.vocabulary, use_cache=False, **shape, **no_dropout, **ends)
    model = GPT2LMHeadModel(config).to(sizes.device).train()
    return model, lambda inputs, _: model(inputs, labels=inputs).loss, adamw(model)  # it shifts the labels itself


def bare(sizes: argparse.Namespace) -> tuple[Any, Any, Any]:
    from torch.nn.functional import cross_entropy

    import gptlab
    from gptlab import build

    model = build.model(gptlab.compose(words(sizes)), sizes.vocabulary).to(sizes.device)
    return model, lambda x, y: cross_entropy(model(x).flatten(0, 1).float(), y.flatten()), adamw(model)


def nanogpt_model(sizes: argparse.Namespace, directory: Path) -> tuple[Any, Any, Any]:
    sys.path.insert(0, str(directory))
    from model import GPT, GPTConfig

    model = GPT(GPTConfig(**nanogpt_shape(sizes), vocab_size=sizes.vocabulary)).to(sizes.device)
    return (
        model,
        lambda inputs, targets: model(inputs, targets)[1],
        model.configure_optimizers(DECAY, LR, BETAS, sizes.device),
    )


def nanogpt_shape(sizes: argparse.Namespace) -> dict[str, Any]:
    shape = {"n_layer": sizes.layers, "n_head": sizes.heads, "n_embd": sizes.width, "block_size": sizes.context}
    return {**shape, "dropout": 0.0, "bias": True}


def nanogpt(sizes: argparse.Namespace, directory: Path) -> harness.Numbers:
    """Its train.py, which prints the time of each step; the first contains an evaluation."""
    settings = {
        **nanogpt_shape(sizes),
        **{"dataset": sizes.place, "out_dir": sizes.place, "device": sizes.device, "compile": bool(sizes.compile)},
        **{"batch_size": sizes.batch, "gradient_accumulation_steps": 1, "max_iters": sizes.steps, "warmup_iters": 0},
        **{"dtype": {"32": "float32", "bf16": "bfloat16"}[sizes.precision], "learning_rate": LR, "grad_clip": CLIP},
        **{"eval_interval": 10**9, "eval_iters": 1, "log_interval": 1, "beta1": BETAS[0], "beta2": BETAS[1]},
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    out, megabytes = harness.command(sys.executable, "train.py", *options, cwd=directory, env=environment)
    return numbers(sizes, [float(ms) / 1e3 for ms in re.findall(r"^iter \d+: .*time ([\d.]+)ms", out, re.M)], megabytes)


@contextmanager
def data(sizes: argparse.Namespace) -> Iterator[None]:
    """`sizes.place`: a random text of as many characters as the vocabulary, and nanoGPT's files of such tokens."""
    n_tokens, chance = max(200_000, 2 * sizes.vocabulary), random.Random(0)
    tokens = [*range(sizes.vocabulary), *chance.choices(range(sizes.vocabulary), k=n_tokens)]
    with tempfile.TemporaryDirectory() as place:
        Path(place, "text.txt").write_text("".join(chr(60 + token) for token in tokens), encoding="utf-8")
        for split in ("train", "val"):
            Path(place, f"{split}.bin").write_bytes(array.array("H", tokens).tobytes())
        Path(place, "meta.pkl").write_bytes(pickle.dumps({"vocab_size": sizes.vocabulary}))
        sizes.place = place
        yield


def contenders(sizes: argparse.Namespace) -> dict[str, Callable[[], harness.Numbers]]:
    """gptlab, its model in a bare loop, and the peers."""
    found = {
        "gptlab": partial(gptlab, sizes),
        "bare": partial(harness.in_process, bare_loop, bare, sizes),
        "transformers": partial(harness.in_process, bare_loop, transformers, sizes),
    }
    for name, _, place in (peer.partition("=") for peer in sizes.peer):
        directory = Path(place).resolve()
        if name == "gptlab":
            found[f"gptlab in {directory.name}"] = partial(gptlab, sizes, directory)
        elif name == "nanogpt":
            found["nanoGPT model"] = partial(harness.in_process, bare_loop, nanogpt_model, sizes, directory)
            if sizes.device != "cpu" or sizes.precision == "32":
                found["nanoGPT"] = partial(nanogpt, sizes, directory)
        else:
            sys.exit(f"--peer {name}: nanogpt=<directory> or gptlab=<directory>")
    return found


def parser(description: str, sizes: dict[str, int]) -> harness.Parser:
    """Options of everything that trains."""
    made = harness.Parser(description, sizes=sizes, gpt2=GPT2, tiny=TINY)
    made.add_argument("--precision", choices=("32", "bf16"), default="32")
    made.add_argument("--device", choices=tuple(LOG_EVERY), default="cpu")
    made.add_argument("--compile", action="store_true", help="with torch's compiler")
    return made


def main() -> int:
    options = parser(__doc__, SHAKESPEARE)
    options.add_argument("--peer", action="append", default=[], metavar="NAME=DIRECTORY", help="nanogpt or gptlab")
    sizes = options.parse_args()
    with data(sizes):
        table = harness.Table(sizes, COLUMNS, ratio_of=["tokens/s"])
        peers = contenders(sizes)
        table.compare(sizes.precision, peers, to=[name for name in peers if name not in ("gptlab", "bare")])
    return 0 if sizes.tiny or table.lowest("gptlab") >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
