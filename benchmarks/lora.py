"""What LoRA costs beside full tuning: memory and time of a training step of the same model on the same batch.

    python benchmarks/lora.py                     # GPT-2 small, 4 x 256 tokens, ranks 4 and 16
    python benchmarks/lora.py --rank 8 --rounds 9

A step is forward, backward and AdamW on a batch in memory, with random weights. Memory is counted, not sampled: the
bytes of weights, gradients, AdamW's averages, and of the activations that wait for the backward pass. `saved` is what a
checkpoint holds to resume from: what trains, and its averages.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import harness
from parts import Training, speed

COUNTED = ("trainable", "gradients MB", "averages MB", "activations MB", "memory MB", "saved MB")


def counted(training: Training) -> harness.Numbers:
    """What a step trains and keeps, by running it once."""
    model, optimizer = training.model, training.optimizer
    activations = saved_for_backward(model, training.loss)
    training.loss().backward()
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None)
    optimizer.step()
    optimizer.zero_grad()
    averages = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    memory = sum(parameter.nbytes for parameter in model.parameters()) + gradients + averages + activations
    sizes = (gradients, averages, activations, memory, 4 * trainable + averages)
    return dict(zip(COUNTED, (trainable, *(size / 1e6 for size in sizes)), strict=True))


def saved_for_backward(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward, each once, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()  # until its end nothing of the graph is freed, so no address is used twice
    del loss
    return sum(kept.values())


def main() -> None:
    """Print a line for full tuning, and one for each rank."""
    parser = harness.Parser(
        __doc__, sizes={"context": 256, "batch": 4, "steps": 2}, tiny={"context": 16, "batch": 2, "steps": 1}
    )
    parser.add_argument("--rank", type=int, action="append", help="may be given several times; 4 and 16")
    sizes = parser.parse_args()
    size, vocabulary = (["model.n_layers=1", "model.d_model=32"], 65) if sizes.tiny else (["model=gpt2"], 50257)
    words = {"full": [], **{f"rank {rank}": ["adapter=lora", f"adapter.rank={rank}"] for rank in sizes.rank or (4, 16)}}

    def measure(training: Training, numbers: harness.Numbers) -> harness.Numbers:
        return {**numbers, **speed(training.step, sizes)}

    runs = {}
    for name, own in words.items():
        training = Training([*size, "init_from=gpt2", *own], sizes, vocabulary)
        runs[name] = partial(measure, training, counted(training))
    shown = {"trainable": ",.0f", "activations MB": ",.1f", "memory MB": ",.1f", "saved MB": ",.1f", "s a step": ".3f"}
    harness.Table(sizes, shown, ratio_of=["memory MB", "tokens/s"]).compare("", runs, to=["full"])


if __name__ == "__main__":
    main()
