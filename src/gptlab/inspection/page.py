"""One HTML file that needs nothing else: it carries its data and the script that draws them, and makes no request."""

import base64
import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gptlab.html_page import filled
from gptlab.inspection.analyze import Inspection

HERE = Path(__file__).parent
GENERATOR = '<meta name="generator" content="gptlab inspect">'
"""In the head of every page: it identifies an earlier inspection."""


def page(inspection: Inspection, texts: dict[int, str], *, facts: dict[str, str], vocab_size: int) -> str:
    """The page's whole text. Sections for which the model has nothing to show are hidden.

    Args:
        inspection: of the text.
        texts: of all ids in it.
        facts: rows of its head, by name.
        vocab_size: V.
    """
    uniform_loss = math.log(max(vocab_size, 2))  # of a uniform guess; the page divides by it
    data = {
        "tokens": [texts[id_] for id_ in inspection.ids.tolist()],
        "ids": inspection.ids.tolist(),
        "losses": [None, *(round(loss, 3) for loss in inspection.losses.tolist())],
        "ranks": [None, *inspection.ranks.tolist()],
        "next": _predictions(inspection.next_ids, inspection.next_probabilities, texts),
        "lens": _predictions(inspection.layer_ids, inspection.layer_probabilities, texts),
        "lensLosses": [round(loss, 2) for loss in inspection.layer_losses.mean(dim=1).nan_to_num().tolist()],
        "uniform": uniform_loss,
        "causal": inspection.causal,
        **_attention(inspection),
    }
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


def _attention(inspection: Inspection) -> dict[str, Any]:
    """The maps as bytes, 255 for a weight of 1; only the lower triangles if the model is causal."""
    if inspection.attention is None:
        return {}
    n_layers, n_heads, n_tokens, _ = inspection.attention.shape
    weights = np.rint(inspection.attention.numpy() * 255).astype(np.uint8)
    if inspection.causal:
        weights = weights[:, :, *np.tril_indices(n_tokens)]
    return {"layers": n_layers, "heads": n_heads, "attention": base64.b64encode(weights.tobytes()).decode()}
