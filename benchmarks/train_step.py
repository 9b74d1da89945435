"""How long one optimizer step takes, beside a bare loop around transformers' GPT-2 of the same size.

    python benchmarks/train_step.py            # nanoGPT's CPU recipe: 4 layers, d_model 128, context 64, batch 12

gptlab's step is the whole of it: Lightning, loader, clipping, logging to TensorBoard and metrics.csv. The peer's loop
has nothing but forward, backward, clipping and AdamW, on a batch that is in memory already. The two take turns, so that
a machine whose speed drifts affects both; medians are compared. Exits 1 if gptlab takes longer.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F

import gptlab
from gptlab.training.log import quiet_lightning
from gptlab.training.loggers.metrics_csv import CSV
from gptlab.training.loggers.tensorboard import TensorBoard

VOCABULARY, LR, BETAS, DECAY, CLIP = 65, 1e-3, (0.9, 0.99), 0.1, 1.0


def gptlab_seconds(sizes: argparse.Namespace, text: Path) -> float:
    """Median seconds of a step of a real training run."""
    config = gptlab.compose(
        [
            *(f"data.path={text}", "data.stride=1", f"data.cache_dir={text.parent}", "tokenizer=char"),
            *(f"model.n_layers={sizes.layers}", f"model.n_heads={sizes.heads}", f"model.d_model={sizes.width}"),
            *(f"context_length={sizes.context}", f"batch_size={sizes.batch}", f"max_steps={sizes.steps}"),
            *(f"optimizer.lr={LR}", f"optimizer.betas={list(BETAS)}", f"grad_clip={CLIP}", "schedule=constant"),
            "trainer=cpu",
        ]
    )
    data = gptlab.data_module(config)
    module = gptlab.training_module(config, data)
    ends = StepEnds()
    with tempfile.TemporaryDirectory() as run_dir:
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=sizes.steps,
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[ends],
            logger=[TensorBoard(save_dir=run_dir), CSV(save_dir=run_dir)],
            default_root_dir=run_dir,
        )
        trainer.fit(module, datamodule=data)
        assert (Path(run_dir) / "metrics.csv").exists()
    return statistics.median(np.diff(ends.times).tolist())


class StepEnds(L.Callback):
    """When each step was over."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.times.append(time.perf_counter())


def transformers_seconds(sizes: argparse.Namespace) -> float:
    """Median seconds of a step of a bare loop."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=sizes.context,
            n_embd=sizes.width,
            n_layer=sizes.layers,
            n_head=sizes.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY)
    inputs, targets = torch.randint(VOCABULARY, (2, sizes.batch, sizes.context))
    seconds = []
    for _ in range(sizes.steps):
        began = time.perf_counter()
        logits = model(inputs, use_cache=False).logits
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> int:
    """Print the table; the exit status says whether gptlab is at least as fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"layers": 4, "heads": 4, "width": 128, "context": 64, "batch": 12, "steps": 100}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=5, help="how often the two take turns")
    parser.add_argument("--tiny", action="store_true", help="ten steps, to see that the benchmark runs; always exits 0")
    sizes = parser.parse_args()
    if sizes.tiny:
        sizes.steps = 10
    quiet_lightning()
    seconds: dict[str, list[float]] = {"gptlab": [], "transformers": []}
    with tempfile.TemporaryDirectory() as place:
        text = Path(place, "text.txt")
        letters = "".join(chr(60 + number) for number in range(VOCABULARY))
        text.write_text("".join(random.Random(0).choices(letters, k=500_000)), encoding="utf-8")
        for _ in range(sizes.rounds):
            seconds["gptlab"].append(gptlab_seconds(sizes, text))
            seconds["transformers"].append(transformers_seconds(sizes))
    tokens = sizes.batch * sizes.context
    print(f"{'':14}{'ms a step':>12}{'tokens/s':>12}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:14}{median * 1e3:12.1f}{tokens / median:12,.0f}")
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    ratio = statistics.median(ratios)
    print(f"gptlab is {ratio:.2f} times as fast (pairs: {', '.join(f'{pair:.2f}' for pair in ratios)})")
    return 0 if ratio >= 1 or sizes.tiny else 1


if __name__ == "__main__":
    sys.exit(main())
