"""Make a model ready to generate: where it computes, in what numbers, and in what order its weights lie."""

import torch

from gptlab.generation.decoding import Decoder
from gptlab.generation.packing import pack
from gptlab.generation.sampling import greedy
from gptlab.model import GPT

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16}


def make_ready(model: GPT, *, device: str, precision: str, n_rows: int, compile: bool) -> None:
    """Change the model in place for decoding; it cannot be trained or saved any more.

    Args:
        model: in evaluation mode.
        device: cpu, cuda or mps.
        precision: 32 or bf16, of weights and activations.
        n_rows: how many sequences are decoded at once.
        compile: whether torch's compiler fuses the step of one token, which takes it some time here and now; prompts
            come in too many shapes for that.

    Raises:
        ValueError: where torch's compiler does not work on this machine.
    """
    model.to(device, PRECISIONS[precision])
    model.requires_grad_(False)
    if not compile:
        pack(model, n_rows=n_rows)
        return
    on_cpu = model.device.type == "cpu"
    if n_rows == 1:
        pack(model, n_rows=1)
    try:
        # of several rows' products on a CPU, the compiler packs the weights itself where it may take them for constants
        model.trunk.compile(dynamic=True, options={"freezing": True} if on_cpu and n_rows > 1 else None)
        for prompts in ([[0, 0]] * n_rows, [[0], *[[0, 0]] * (n_rows - 1)])[: 1 if n_rows == 1 else 2]:
            decoder = Decoder(model, prompts)  # without padding, and with
            for _ in range(3):  # the prompt; one token; one token at another place
                decoder.step(greedy)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"compile=true: torch's compiler does not work here ({reason}); use compile=false") from None
