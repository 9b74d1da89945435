"""The directory of one inspection: a page that needs nothing else, the attention maps, and what TensorBoard reads."""

import base64
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gptlab.html_page import filled
from gptlab.inspection.analyze import Inspection
from gptlab.inspection.drawing import attention_grid, pixels
from gptlab.inspection.tokens import token_texts, visible
from gptlab.tokenizer import Tokenizer

HERE = Path(__file__).parent
GENERATOR = '<meta name="generator" content="gptlab inspect">'
"""In the head of every page: it identifies an earlier inspection."""
PAGE, ATTENTION = "index.html", "attention.png"
OWN_FILES = re.compile(r"index\.html|attention\.png|events\.out\.tfevents\..*|projector_config\.pbtxt|\d+|\.DS_Store")
"""What an inspection writes into its directory, and what a file manager leaves in a folder that it opens."""
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


def page(inspection: Inspection, texts: dict[int, str], *, facts: dict[str, str], vocab_size: int) -> str:
    """The page's whole text. Sections for which the model has nothing to show are hidden.

    Args:
        inspection: of the text.
        texts: of all ids in it.
        facts: rows of its head, by name.
        vocab_size: V.
    """
    uniform_loss = math.log(max(vocab_size, 2))  # of a uniform guess; the page divides by it
    data: dict[str, Any] = {
        "tokens": [texts[id_] for id_ in inspection.ids.tolist()],
        "ids": inspection.ids.tolist(),
        "losses": [None, *(round(loss, 3) for loss in inspection.losses.tolist())],
        "ranks": [None, *inspection.ranks.tolist()],
        "next": _predictions(inspection.next_ids, inspection.next_probabilities, texts),
        "lens": _predictions(inspection.layer_ids, inspection.layer_probabilities, texts),
        "lensLosses": [round(loss, 2) for loss in inspection.layer_losses.mean(dim=1).nan_to_num().tolist()],
        "uniform": uniform_loss,
        "causal": inspection.causal,
    }
    if inspection.attention is not None:
        weights = np.rint(inspection.attention.numpy() * 255).astype(np.uint8)  # (L, H, T, T)
        data |= {"layers": len(weights), "heads": weights.shape[1], "attention": base64.b64encode(weights).decode()}
    parts = {
        "generator": GENERATOR,
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "facts": "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items()),
        "uniform": f"{uniform_loss:.1f}",
        "vocabulary": f"{vocab_size:,}",
        "hide_caveat": "hidden" if inspection.causal else "",
        "hide_attention": "hidden" if inspection.attention is None else "",
        "hide_lens": "" if inspection.has_layers else "hidden",
        "data": json.dumps(data).replace("<", "\\u003c"),  # so that no token can end the script element
        "script": (HERE / "page.js").read_text(encoding="utf-8"),
    }
    return filled(HERE / "page.html", parts)


def _predictions(ids: Tensor, probabilities: Tensor, texts: dict[int, str]) -> list[list[tuple[str, float]]]:
    """Text and probability in place of each id of a matrix."""
    rows = zip(ids.tolist(), probabilities.tolist(), strict=True)
    return [[(texts[id_], float(f"{share:.3g}")) for id_, share in zip(*row, strict=True)] for row in rows]


def foreign(directory: Path) -> list[str]:
    """Names in a directory that no earlier inspection wrote; all of them if it has no page of an inspection."""
    names = sorted(path.name for path in directory.iterdir())
    index = directory / PAGE
    if index.is_file() and GENERATOR in index.read_text(encoding="utf-8", errors="replace")[:2000]:
        return [name for name in names if not OWN_FILES.fullmatch(name)]
    return names
