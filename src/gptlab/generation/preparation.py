"""Make a model ready to generate: where it computes, in what numbers, and in what order its weights lie."""

import torch

from gptlab.generation.decoding import Decoder
from gptlab.generation.packing import can_pack, pack
from gptlab.generation.sampling import greedy
from gptlab.model import GPT

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16}


def prepare(model: GPT, *, device: str, precision: str, n_rows: int, compiles: bool) -> None:
    """Change the model in place for decoding; it cannot be trained or saved any more.

    Args:
        model: in evaluation mode.
        device: cpu, cuda or mps.
        precision: 32 or bf16, of weights, activations and cache.
        n_rows: how many sequences are decoded at once.
        compiles: whether torch's compiler fuses what lies between the products; the first run of it takes a minute, in
            a process with warm caches some seconds.

    Raises:
        ValueError: where torch's compiler does not work on this machine.
    """
    model.to(device, PRECISIONS[precision])
    model.requires_grad_(False)
    if not compiles:
        if can_pack(model):
            pack(model, n_rows=n_rows)
        return
    options = None
    if can_pack(model):
        if n_rows == 1:
            pack(model, n_rows=1)
        else:  # the compiler packs weights by itself where it may take them for constants
            options = {"freezing": True}
    model.trunk.compile(dynamic=True, options=options)
    try:
        decoder = Decoder(model, [[0, 0]] * n_rows)
        for _ in range(3):  # the prompt; one token; one token at another place
            decoder.step(greedy)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"compile=true: torch's compiler does not work here ({reason}); use compile=false") from None
