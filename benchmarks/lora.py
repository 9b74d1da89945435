"""What LoRA costs beside full tuning: memory and time of a training step of the same model on the same batch.

    python benchmarks/lora.py                     # GPT-2 small, 256 tokens, ranks 4 and 16
    python benchmarks/lora.py --rank 8 --rounds 9
    python benchmarks/lora.py --tiny --rounds 1   # a tiny model: does the benchmark run?

A step is forward, backward and AdamW on a batch in memory, with random weights. LoRA and full tuning take turns, so
that a machine whose speed drifts affects both; the time's ratio is the median of the rounds. Memory is counted, not
sampled: the bytes of weights, gradients, AdamW's averages, and of the activations that wait for the backward pass.
`saved` is what a checkpoint holds to resume from: what trains, and its averages.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import gptlab
from gptlab import build


class Cost(NamedTuple):
    """One training step, and bytes."""

    step: Callable[[], None]
    trainable: int
    weights: int
    gradients: int
    averages: int
    activations: int

    @property
    def memory(self) -> int:
        return self.weights + self.gradients + self.averages + self.activations


def cost_of(words: list[str], sizes: argparse.Namespace) -> Cost:
    """The step that these words choose, run once."""
    own = ["model=small", "model.n_layers=1", "model.d_model=32"] if sizes.tiny else ["model=gpt2"]
    config = gptlab.compose([*own, f"context_length={sizes.context}", "init_from=gpt2", *words])
    torch.manual_seed(0)
    vocabulary = 65 if sizes.tiny else 50257
    model, objective = build.model(config, vocabulary), build.part(config, "objective")
    if "adapter" in config:
        build.part(config, "adapter").apply(model)
    optimizer = build.optimizer(config)(model)
    tokens = torch.randint(vocabulary, (sizes.batch, sizes.context + 1))
    batch = tokens[:, :-1], tokens[:, 1:]
    activations = saved_for_backward(model, lambda: objective(model, batch).sum)

    def step() -> None:
        objective(model, batch).sum.backward()
        optimizer.step()
        optimizer.zero_grad()

    objective(model, batch).sum.backward()
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None)
    optimizer.step()
    optimizer.zero_grad()
    averages = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    n_trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Cost(step, n_trainable, weights, gradients, averages, activations)


def saved_for_backward(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward, each once, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()  # until its end nothing of the graph is freed, so no address is used twice
    del loss
    return sum(kept.values())


def seconds(step: Callable[[], None], n_steps: int) -> float:
    """Of one step, as a mean over a few."""
    began = time.perf_counter()
    for _ in range(n_steps):
        step()
    return (time.perf_counter() - began) / n_steps


def main() -> None:
    """Print a line for full tuning, and one for each rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, action="append", help="may be given several times; 4 and 16")
    for name, value in {"context": 256, "batch": 4, "steps": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=5, help="how often LoRA and full tuning take turns")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that the benchmark runs")
    sizes = parser.parse_args()
    if sizes.tiny:
        sizes.context, sizes.batch, sizes.steps = 16, 2, 1
    full = cost_of([], sizes)
    columns = ("trainable", "gradients", "averages", "activations", "memory", "of full", "saved", "s/step", "of full")
    print(f"{'':10}" + "".join(f"{column:>13}" for column in columns))

    def line(name: str, cost: Cost, own: list[float], ratio: float) -> None:
        megabytes = [f"{n / 1e6:,.1f} MB" for n in (cost.gradients, cost.averages, cost.activations, cost.memory)]
        saved = f"{(4 * cost.trainable + cost.averages) / 1e6:,.1f} MB"
        memory = f"{cost.memory / full.memory:.2f}x"
        cells = [f"{cost.trainable:,}", *megabytes, memory, saved, f"{statistics.median(own):.3f}", f"{ratio:.2f}x"]
        print(f"{name:10}" + "".join(f"{cell:>13}" for cell in cells), flush=True)

    line("full", full, [seconds(full.step, sizes.steps) for _ in range(sizes.rounds)], 1.0)
    for rank in sizes.rank or (4, 16):
        cost = cost_of(["adapter=lora", f"adapter.rank={rank}"], sizes)
        pairs = [(seconds(cost.step, sizes.steps), seconds(full.step, sizes.steps)) for _ in range(sizes.rounds)]
        own = [mine for mine, _ in pairs]
        line(f"rank {rank}", cost, own, statistics.median(mine / theirs for mine, theirs in pairs))


if __name__ == "__main__":
    main()
