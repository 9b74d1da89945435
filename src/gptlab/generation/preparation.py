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
    batches, options = [[[0, 0]] * n_rows], None
    if n_rows == 1:
        pack(model, n_rows=1)
    else:
        batches.append([[0], *[[0, 0]] * (n_rows - 1)])  # with padding
        if model.device.type == "cpu":  # the compiler packs weights by itself where it may take them for constants
            options = {"freezing": True}
    try:
        model.trunk.compile(dynamic=True, options=options)
        for prompts in batches:
            decoder = Decoder(model, prompts)
            for _ in range(3):  # the prompt; one token; one token at another place
                decoder.step(greedy)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"compile=true: torch's compiler does not work here ({reason}); use compile=false") from None
