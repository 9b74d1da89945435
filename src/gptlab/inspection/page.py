"""One HTML file that needs nothing else: text, tables, attention to click through, no request to anywhere."""

import base64
import html
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gptlab.html_page import filled
from gptlab.inspection.look import Inspection, cost_of_a_guess

HERE = Path(__file__).parent
GENERATOR = '<meta name="generator" content="gptlab inspect">'
"""In the head of every page: by this an earlier one is known."""


def page(
    inspection: Inspection,
    texts: dict[int, str],
    *,
    facts: dict[str, str],
    vocab_size: int,
    overview: bytes,
) -> str:
    """The page's whole text. What a script draws of it stands there as tables and a picture too.

    Args:
        inspection: of the text.
        texts: of all ids that are in it.
        facts: what was looked into, by name, for its head.
        vocab_size: V.
        overview: the PNG of all attention maps, for a browser without scripts.
    """
    parts = {
        "generator": GENERATOR,
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "facts": "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items()),
        "strip": _strip(inspection, texts, uniform=cost_of_a_guess(vocab_size)),
        "uniform": f"{cost_of_a_guess(vocab_size):.1f}",
        "vocabulary": f"{vocab_size:,}",
        "tokens": _tokens_table(inspection, texts),
        "overview": base64.b64encode(overview).decode(),
        "lens": _lens_table(inspection, texts),
        "data": _data(inspection, texts),
        "script": (HERE / "page.js").read_text(encoding="utf-8"),
    }
    return filled(HERE / "page.html", parts)


def _marked(text: str) -> str:
    """Escaped, with the signs that stand for white space set apart."""
    escaped = html.escape(text)
    for sign in "·↵⇥":
        escaped = escaped.replace(sign, f"<i>{sign}</i>")
    return escaped


def _of_each_token(inspection: Inspection) -> Iterable[tuple[int, int, float | None, int | None]]:
    """Place, id, loss and rank; the first token has neither."""
    losses = [None, *inspection.losses.tolist()]
    ranks = [None, *inspection.ranks.tolist()]
    return zip(range(len(losses)), inspection.ids.tolist(), losses, ranks, strict=True)


def _strip(inspection: Inspection, texts: dict[int, str], *, uniform: float) -> str:
    """The text, each token as hot as it was surprising."""
    buttons = []
    for place, id_, loss, rank in _of_each_token(inspection):
        heat = 0.0 if loss is None else min(loss / uniform, 1.0)
        said = "nothing came before it" if loss is None else f"loss {loss:.2f}, rank {rank:,}"
        first = " first" if loss is None else ""
        line_break = "<br>" if "↵" in texts[id_] else ""
        buttons.append(
            f'<button type="button" class="token{first}" style="--heat:{heat:.2f}" data-place="{place}" '
            f'title="{said}">{_marked(texts[id_])}</button>{line_break}'
        )
    return "".join(buttons)


def _tokens_table(inspection: Inspection, texts: dict[int, str]) -> str:
    """A row a token: what it cost, and what was likelier."""
    rows = []
    for place, id_, loss, rank in _of_each_token(inspection):
        if loss is None:
            cells = '<td colspan="4" class="quiet">nothing came before it</td>'
        else:
            likely = zip(
                inspection.next_ids[place - 1].tolist(), inspection.next_probabilities[place - 1].tolist(), strict=True
            )
            expected = ", ".join(f"<b>{_marked(texts[i])}</b>&nbsp;{p:.0%}" for i, p in list(likely)[:3])
            cells = f"<td>{loss:.2f}</td><td>{_share(math.exp(-loss))}</td><td>{rank:,}</td><td>{expected}</td>"
        rows.append(f"<tr><td>{place + 1}</td><th>{_marked(texts[id_])}</th><td>{id_}</td>{cells}</tr>")
    return "".join(rows)


def _share(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else "&lt; 0.1%"


def _lens_table(inspection: Inspection, texts: dict[int, str]) -> str:
    """A row a token, a column a layer: what the model would say next if it ended there."""
    n_layers, _ = inspection.layer_ids.shape
    names = ["embedding", *(f"layer {layer}" for layer in range(1, n_layers))]
    losses = inspection.layer_losses.mean(dim=1).tolist()
    known = len(inspection.losses) > 0
    heads = [
        f"<th>{name}{f'<small>loss {loss:.2f}</small>' if known else ''}</th>"
        for name, loss in zip(names, losses, strict=True)
    ]
    rows = [f"<tr><th>after</th>{''.join(heads)}<th>came</th></tr>"]
    came = [*inspection.ids.tolist()[1:], None]
    for place, id_ in enumerate(inspection.ids.tolist()):
        cells = [
            f'<td{" class=right" if predicted == came[place] else ""} style="--sure:{share:.2f}" '
            f'title="{share:.1%}">{_marked(texts[predicted])}</td>'
            for predicted, share in zip(
                inspection.layer_ids[:, place].tolist(), inspection.layer_probabilities[:, place].tolist(), strict=True
            )
        ]
        next_id = came[place]
        came_text = "" if next_id is None else _marked(texts[next_id])
        rows.append(f"<tr><th>{_marked(texts[id_])}</th>{''.join(cells)}<th>{came_text}</th></tr>")
    return "".join(rows)


def _data(inspection: Inspection, texts: dict[int, str]) -> str:
    """What the script draws from. No `<` is in it, so that no token can end it."""
    n_layers, n_heads, n_tokens, _ = inspection.attention.shape
    rows, columns = np.tril_indices(n_tokens)
    weights = np.rint(inspection.attention.numpy()[:, :, rows, columns] * 255).astype(np.uint8)
    data = {
        "tokens": [texts[id_] for id_ in inspection.ids.tolist()],
        "losses": [None, *(round(loss, 3) for loss in inspection.losses.tolist())],
        "next": [
            [[texts[id_], float(f"{share:.3g}")] for id_, share in zip(ids, shares, strict=True)]
            for ids, shares in zip(inspection.next_ids.tolist(), inspection.next_probabilities.tolist(), strict=True)
        ],
        "layers": n_layers,
        "heads": n_heads,
        "attention": base64.b64encode(weights.tobytes()).decode(),  # the lower triangles, 255 is all
    }
    return json.dumps(data).replace("<", "\\u003c")
