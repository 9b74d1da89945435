"""Prepare a model to generate: its device, its precision, and the order of its weights in memory."""

import torch

from gptlab.generation.decoding import Decoder
from gptlab.generation.packing import pack
from gptlab.generation.sampling import greedy
from gptlab.model import LanguageModel

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16}


def prepare_for_inference(model: LanguageModel, *, device: str, precision: str, n_rows: int, compile: bool) -> None:
    """Change the model in place for decoding; afterwards it can be neither trained nor saved.

    The precision is that of weights and activations; `n_rows` is how many sequences are decoded at once. If `compile`,
    torch's compiler fuses the step of one token, which takes some time; prompts have too many shapes for that.
    ValueError if it does not work here, or if the model has no such step.
    """
    model.to(device, PRECISIONS[precision])
    model.requires_grad_(False)
    if not compile:
        pack(model, n_rows=n_rows)
        return
    if model.new_cache() is None:
        raise ValueError("compile=true: this model has no KV cache, so no step of one token; use compile=false")
    batches, options = [[[0, 0]] * n_rows], None
    if n_rows == 1:
        pack(model, n_rows=1)
    else:
        batches.append([[0], *[[0, 0]] * (n_rows - 1)])  # with padding
        if model.device.type == "cpu":  # the compiler packs weights by itself if it may take them for constants
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
