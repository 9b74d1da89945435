"""`gptlab evaluate data=instructions`: a model's answers to one part of a table, scored against the references."""

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from gptlab import build
from gptlab.checkpoint import Loaded
from gptlab.cli.progress import progress_line
from gptlab.data.documents import Rows
from gptlab.data.instructions import Instructions
from gptlab.errors import UserError
from gptlab.evaluation.answers import answers, scores
from gptlab.evaluation.loss import running_loss
from gptlab.files import absolute, write_whole


def check_free(to: str) -> None:
    """Raises UserError if no new file can be written there."""
    if absolute(to).exists():
        raise UserError(f"to={to} exists already: name a new file")
    if not absolute(to).parent.is_dir():
        raise UserError(f"to={to}: there is no directory {absolute(to).parent}")


def as_trained(node: build.Config, loaded: Loaded, typed: Collection[str]) -> Instructions:
    """The table that a node names, with the template and the split of the run, except what the user has `typed`."""
    own = loaded.config.get("data") or {}
    kept = {name: own[name] for name in ("template", "split", "seed") if name in own and f"data.{name}" not in typed}
    return build.part({"data": {**node, **kept}}, "data")


def measure_answers(
    loaded: Loaded, data: Instructions, *, split: str, batch_size: int, max_new_tokens: int, to: str | None
) -> dict[str, Any]:
    """Exact match, token F1, what an echo of the input scores, and the loss of the references.

    Writes the answers next to the references to the file `to`. Raises UserError if there is nothing to answer.
    """
    parts = data.parts()
    examples = [one for name, part in parts.items() if split in (name, "all") for one in part]
    if not examples:
        there_are = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
        raise UserError(f"{data.name} has no instructions for split={split} (it has {there_are}); split=all takes all")
    model, tokenizer, context = loaded.model, loaded.needed_tokenizer(), loaded.model.context_length
    rows = Rows([data.encode(one, tokenizer, context) for one in examples], context, mask_prompt=True, pack=False)
    batches = np.split(np.arange(len(rows)), range(batch_size, len(rows), batch_size))
    *_, loss = running_loss(model, map(rows.batch, batches))
    prompts, written = [document.ids[: document.n_prompt] for document in rows.documents], []
    with progress_line("answering", len(examples), unit="instructions") as show:
        found = answers(model, tokenizer, prompts, batch_size=batch_size, max_new_tokens=max_new_tokens)
        for one, answer in zip(examples, found, strict=True):
            written.append({**one.row.columns, "answer": answer, **scores(answer, one.response)})
            show(len(written))
    if to is not None:
        write_whole(Path(to).expanduser(), json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    echoes = [scores(one.row.columns.get("input") or one.messages[-1].content, one.response) for one in examples]
    result = {
        **{name: float(np.mean([one[name] for one in written])) for name in echoes[0]},
        **{f"echo_{name}": float(np.mean([one[name] for one in echoes])) for name in echoes[0]},
        "loss": loss.mean,
    }
    print(*[f"  {name:17} {value:.4f}" for name, value in result.items()], sep="\n", file=sys.stderr)
    how = {"data": data.name, "split": split, "instructions": len(examples), "max_new_tokens": max_new_tokens}
    return {**result, "tokens": loss.count, **how, "answers": to}
