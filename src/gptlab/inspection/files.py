"""The directory of one inspection: the page, the attention maps, and what TensorBoard reads."""

import re
from pathlib import Path

import numpy as np
from torch import Tensor

from gptlab.inspection.analyze import Inspection
from gptlab.inspection.drawing import attention_grid, pixels
from gptlab.inspection.page import GENERATOR, page
from gptlab.inspection.tokens import token_texts, visible
from gptlab.tokenizer import Tokenizer

PAGE, ATTENTION = "index.html", "attention.png"
OWN_FILES = re.compile(
    r"index\.html|attention\.png|events\.out\.tfevents\..*|projector_config\.pbtxt"
    r"|\d+(/token_embedding(/(tensors|metadata)\.tsv)?)?|\.DS_Store"
)
"""Paths that an inspection writes, and what a file manager leaves in a folder that it opens."""
N_EMBEDDINGS = 1000
"""Token vectors in the projector: the first ids are the most frequent tokens of BPE. All of GPT-2's would be 750 MB."""


def write_inspection(
    directory: Path,
    inspection: Inspection,
    tokenizer: Tokenizer,
    *,
    token_vectors: Tensor | None,
    prompt: str,
    facts: dict[str, str],
    step: int,
) -> None:
    """Write everything into a directory.

    Args:
        directory: empty.
        inspection: of the prompt.
        tokenizer: of its ids.
        token_vectors: (V, C), for TensorBoard's projector; None if the model has none.
        prompt: its text.
        facts: rows of the page's head.
        step: optimizer steps of training.
    """
    from matplotlib.image import imsave
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    prompt_ids = inspection.ids.tolist()
    shown = {*prompt_ids, *inspection.next_ids.flatten().tolist(), *inspection.layer_ids.flatten().tolist()}
    embedded = set() if token_vectors is None else {*range(len(token_vectors))[:N_EMBEDDINGS], *prompt_ids}
    texts = token_texts(tokenizer, shown | embedded)
    with SummaryWriter(str(directory)) as writer:
        if inspection.attention is not None:
            grid = pixels(attention_grid(inspection.attention.numpy(), visible(prompt), causal=inspection.causal))
            imsave(directory / ATTENTION, grid, format="png")
            writer.add_image("attention", grid, step, dataformats="HWC")
        if token_vectors is not None:
            ids = sorted(embedded)
            vectors = token_vectors[ids].detach().float().cpu().numpy().astype(np.float64)
            writer.add_embedding(
                np.round(vectors, 4),  # otherwise 20 digits each
                metadata=[[texts[id_], id_, "yes" if id_ in prompt_ids else "no"] for id_ in ids],
                metadata_header=["token", "id", "in the prompt"],
                global_step=step,
                tag="token_embedding",
            )
    text = page(inspection, texts, facts=facts, vocab_size=tokenizer.vocab_size)
    (directory / PAGE).write_text(text, encoding="utf-8", errors="replace")


def foreign(directory: Path) -> list[str]:
    """Paths in a directory that no earlier inspection wrote; all of them if it has no page of an inspection."""
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))
    index = directory / PAGE
    if index.is_file() and GENERATOR in index.read_text(encoding="utf-8", errors="replace")[:2000]:
        return [name for name in names if not OWN_FILES.fullmatch(name) or (directory / name).is_symlink()]
    return names
