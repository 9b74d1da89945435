"""The same pictures in TensorBoard, with a table of next tokens as text and the token embeddings in its projector."""

from pathlib import Path

import numpy as np
from torch import Tensor

from gptlab.inspection.look import Inspection

N_EMBEDDINGS = 1000
"""The first ids, which are the most frequent tokens of byte-pair encoding. All of GPT-2's would be 750 MB of text."""
LISTED, CELL = 5, 14


def write_board(
    directory: Path,
    inspection: Inspection,
    texts: dict[int, str],
    pictures: dict[str, np.ndarray],
    embedding: Tensor,
    *,
    step: int,
) -> None:
    """Write events, and the projector's files, into a directory that is there.

    Args:
        directory: what `tensorboard --logdir` is given, or one below it.
        inspection: of the text.
        texts: of all ids that are in it, and of those that `embedded_ids` gives.
        pictures: (height, width, 3) pixels by their tags.
        embedding: a vector of each token of the vocabulary, (V, C).
        step: how long the model was trained, in steps.
    """
    from torch.utils.tensorboard import SummaryWriter  # a second: only who writes pays

    prompt_ids = inspection.ids.tolist()
    ids = embedded_ids(prompt_ids, len(embedding))
    with SummaryWriter(str(directory)) as writer:
        for tag, picture in pictures.items():
            writer.add_image(tag, picture, step, dataformats="HWC")
        writer.add_text("next tokens", _table(inspection, texts), step)
        writer.add_embedding(
            np.round(embedding[ids].detach().float().cpu().numpy().astype(np.float64), 4),  # else 20 digits each
            metadata=[[texts[id_], id_, "yes" if id_ in prompt_ids else "no"] for id_ in ids],
            metadata_header=["token", "id", "in the prompt"],
            global_step=step,
            tag="token_embedding",
        )


def embedded_ids(prompt_ids: list[int], vocab_size: int) -> list[int]:
    """Which tokens the projector gets: the first of the vocabulary, and the prompt's."""
    return sorted({*range(min(N_EMBEDDINGS, vocab_size)), *prompt_ids})


def _table(inspection: Inspection, texts: dict[int, str]) -> str:
    """Indented, so that TensorBoard's markdown leaves it alone: each token, its loss, and what was likely after it."""
    losses = ["", *(f"{loss:.2f}" for loss in inspection.losses.tolist())]
    rows = [["token", "loss", "likely next"]]
    for place, id_ in enumerate(inspection.ids.tolist()):
        likely = zip(inspection.next_ids[place].tolist(), inspection.next_probabilities[place].tolist(), strict=True)
        listed = [f"{_cell(texts[next_id])} {share:4.0%}" for next_id, share in list(likely)[:LISTED]]
        rows.append([texts[id_], losses[place], "  ".join(listed)])
    return "\n".join(f"    {_cell(token)} {loss:>6}  {likely}" for token, loss, likely in rows)


def _cell(text: str) -> str:
    return (text if len(text) <= CELL else text[: CELL - 1] + "…").ljust(CELL)
