"""What each part costs: tokens per second of a training step of a small GPT, beside the same GPT with torch's parts.

    python benchmarks/parts.py            # every attention, norm, feed-forward, position and objective of conf/
    python benchmarks/parts.py --tiny     # a tiny model, one round: does the benchmark run?

A step is forward, backward and AdamW on a batch in memory. Each part takes turns with the baseline (fused attention,
LayerNorm, GELU, learned positions, torch's cross-entropy), so that a machine whose speed drifts affects both; the ratio
is the median of the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import gptlab
from gptlab import build

PARTS = (
    *("model/attention/*", "model/norm/*", "model/feed_forward/*", "model/positions/*"),
    "objective/next_token*",  # others learn from other data
)
VOCABULARY = 65


def step_of(words: list[str], sizes: argparse.Namespace) -> Callable[[], None]:
    """One training step of the model that these words choose."""
    size = [f"model.d_model={sizes.width}", f"context_length={sizes.context}", f"batch_size={sizes.batch}"]
    config = gptlab.compose([*size, *words])
    model, objective = build.model(config, VOCABULARY), build.part(config, "objective")
    optimizer = build.optimizer(config)(model)
    tokens = torch.randint(VOCABULARY, (sizes.batch, sizes.context + 1))
    batch = tokens[:, :-1], tokens[:, 1:]

    def step() -> None:
        objective(model, batch).sum.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], None], n_steps: int) -> float:
    """Of one step, as a mean over a few."""
    began = time.perf_counter()
    for _ in range(n_steps):
        step()
    return (time.perf_counter() - began) / n_steps


def main() -> None:
    """Print a line for each choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"width": 256, "context": 128, "batch": 16, "steps": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=5, help="how often a part and the baseline take turns")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that the benchmark runs")
    sizes = parser.parse_args()
    if sizes.tiny:
        sizes.width, sizes.context, sizes.batch, sizes.steps = 32, 16, 2, 1
    conf = Path(__file__).resolve().parents[1] / "conf"
    baseline = step_of([], sizes)
    baseline()
    print(f"{'':36}{'tokens/s':>12}{'of torch':>10}")
    for part in PARTS:
        group = part.rpartition("/")[0]
        for name in sorted(path.stem for path in conf.glob(f"{part}.yaml")):
            step = step_of([f"{group}={name}"], sizes)
            step()
            pairs = [(seconds(step, sizes.steps), seconds(baseline, sizes.steps)) for _ in range(sizes.rounds)]
            ratio = statistics.median(base / own for own, base in pairs)
            speed = sizes.batch * sizes.context / statistics.median(own for own, _ in pairs)
            print(f"{group + '=' + name:36}{speed:12,.0f}{ratio:9.2f}x", flush=True)


if __name__ == "__main__":
    main()
