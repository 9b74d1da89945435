"""The directory of one inspection: what is written into it, and by what an earlier one is known."""

import re
from pathlib import Path

import numpy as np
from torch import Tensor

from gptlab.inspection.board import write_board
from gptlab.inspection.drawing import pixels, save
from gptlab.inspection.look import Inspection
from gptlab.inspection.maps import attention_grid, attention_of_layer
from gptlab.inspection.page import GENERATOR, page
from gptlab.inspection.predictions import lens, surprise
from gptlab.inspection.tokens import visible

PAGE, ATTENTION = "index.html", "attention.png"
OURS = re.compile(
    r"index\.html|(attention|attention-layer-\d+|surprise|predictions)\.png|events\.out\.tfevents\..*"
    r"|projector_config\.pbtxt|\d+|\d+/token_embedding|\d+/token_embedding/(tensors|metadata)\.tsv|\.DS_Store"
)
"""All that an inspection writes, and what a file manager leaves in a folder that it shows."""


def write_inspection(
    directory: Path,
    inspection: Inspection,
    texts: dict[int, str],
    embedding: Tensor,
    *,
    prompt: str,
    facts: dict[str, str],
    step: int,
) -> None:
    """Fill a directory with pictures, the page, and what TensorBoard reads.

    Args:
        directory: empty.
        inspection: of the prompt.
        texts: of all ids that are shown.
        embedding: of the tokens, (V, C).
        prompt: its text.
        facts: for the head of the page, by name.
        step: how long the model was trained, in steps.
    """
    tokens = [texts[id_] for id_ in inspection.ids.tolist()]
    vocab_size = len(embedding)
    pictures = {
        "attention/all": (ATTENTION, pixels(attention_grid(inspection.attention, visible(prompt)))),
        "surprise": ("surprise.png", pixels(surprise(inspection, texts, vocab_size=vocab_size))),
        "predictions": ("predictions.png", pixels(lens(inspection, texts))),
    }
    for number, maps in enumerate(inspection.attention, start=1):
        picture = pixels(attention_of_layer(maps, tokens, layer=number))
        pictures[f"attention/layer {number:02}"] = (f"attention-layer-{number:02}.png", picture)
    for name, picture in pictures.values():
        save(picture, directory / name)
    shown: dict[str, np.ndarray] = {tag: picture for tag, (_, picture) in pictures.items()}
    write_board(directory, inspection, texts, shown, embedding, step=step)
    overview = (directory / ATTENTION).read_bytes()
    text = page(inspection, texts, facts=facts, vocab_size=vocab_size, overview=overview)
    (directory / PAGE).write_text(text, encoding="utf-8", errors="replace")


def foreign(directory: Path) -> list[str]:
    """What a directory holds that is of no earlier inspection; everything, where it has no page of one."""
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))
    index = directory / PAGE
    if index.is_file() and GENERATOR in index.read_text(encoding="utf-8", errors="replace")[:2000]:
        return [name for name in names if not OURS.fullmatch(name) or (directory / name).is_symlink()]
    return names


def remove_earlier(directory: Path) -> None:
    """Take an earlier inspection away, file by file. Raises OSError where something else has come into it."""
    for path in sorted(directory.rglob("*"), reverse=True):  # what lies in a directory before the directory
        if OURS.fullmatch(path.relative_to(directory).as_posix()):
            path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()
