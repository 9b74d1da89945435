"""What each part costs: tokens per second of a training step of a small GPT, beside the same GPT with torch's parts.

    python benchmarks/parts.py   # every attention, norm, feed-forward, position and objective of conf/

A step is forward, backward and AdamW on a batch in memory. The parts of a group take turns with the baseline: fused
attention, LayerNorm, GELU, learned positions, torch's cross-entropy.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import gptlab
import harness
from gptlab import build

PARTS = (
    *("model/attention/*", "model/norm/*", "model/feed_forward/*", "model/positions/*"),
    "objective/next_token*",  # others learn from other data
)
SIZES = {"width": 256, "context": 128, "batch": 16, "steps": 5}
TINY = {"width": 32, "context": 16, "batch": 2, "steps": 1}


class Training:
    """One step of training, as these words configure it."""

    def __init__(self, words: list[str], sizes: argparse.Namespace, vocabulary: int = 65) -> None:
        torch.manual_seed(0)
        config = gptlab.compose(
            [f"context_length={sizes.context}", f"batch_size={sizes.batch}", "optimizer=adamw", *words]
        )
        self.model: nn.Module = build.model(config, vocabulary)
        if "adapter" in config:
            build.part(config, "adapter").apply(self.model)
        self.objective, self.optimizer = build.part(config, "objective"), build.optimizer(config)(self.model)
        tokens = torch.randint(vocabulary, (sizes.batch, sizes.context + 1))
        self.batch = tokens[:, :-1], tokens[:, 1:]

    def loss(self) -> Tensor:
        return self.objective(self.model, self.batch).sum

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def speed(step: Callable[[], None], sizes: argparse.Namespace) -> harness.Numbers:
    """The mean over a few steps."""
    began = time.perf_counter()
    for _ in range(sizes.steps):
        step()
    seconds = (time.perf_counter() - began) / sizes.steps
    return {"tokens/s": sizes.batch * sizes.context / seconds, "s a step": seconds}


def main() -> None:
    sizes = harness.Parser(__doc__, sizes=SIZES, tiny=TINY).parse_args()
    table = harness.Table(sizes, {"tokens/s": ",.0f"}, ratio_of=["tokens/s"])
    for part in PARTS:
        group = part.rpartition("/")[0]
        names = sorted(path.stem for path in (harness.ROOT / "conf").glob(f"{part}.yaml"))
        words = {"torch's parts": [], **{name: [f"{group}={name}"] for name in names}}
        steps = {name: Training([f"model.d_model={sizes.width}", *own], sizes).step for name, own in words.items()}
        for step in steps.values():
            step()
        table.compare(
            group.removeprefix("model/"),
            {name: partial(speed, step, sizes) for name, step in steps.items()},
            to=["torch's parts"],
        )


if __name__ == "__main__":
    main()
