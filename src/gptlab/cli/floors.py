"""`gptlab compare <runs> ngram=1,2,3`: what counting alone reaches on the text that the runs are validated on."""

from pathlib import Path

import numpy as np
from hydra.utils import get_object

from gptlab import build
from gptlab.checkpoint.run import find_checkpoint, read_checkpoint
from gptlab.checkpoint.trust import check_trusted
from gptlab.cli.progress import show_pieces
from gptlab.comparison.ngram import ngram_loss
from gptlab.data.text_windows import TextWindows
from gptlab.errors import UserError


def orders_of(ngram: object) -> list[int]:
    """`1,2,4`, or a number or a list of a yaml file, as numbers. Raises UserError if it is something else."""
    words = [word.strip() for word in str(ngram).strip("[]").split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UserError(f"ngram={ngram} must be whole numbers from 1, such as ngram=1,2,3")
    return [int(word) for word in words]


def floors(run_dir: Path, orders: list[int]) -> dict[str, float]:
    """Nats per token of n-gram models on the split of a run, by name: {"2-gram": 2.48}.

    Raises:
        UserError: if the run has no checkpoint or no text, or if an order is too high to count.
    """
    checkpoint = find_checkpoint(run_dir)
    if checkpoint is None:
        raise UserError(f"ngram= needs the tokenizer of {run_dir}, which has no checkpoint")
    ours = read_checkpoint(checkpoint)["gptlab"]
    config = ours["config"]
    check_trusted([config["data"], config["tokenizer"]], (), where=str(checkpoint))
    data = build.part(config, "data")
    if not isinstance(data, TextWindows):
        raise UserError(f"ngram= counts the tokens of a text, and {data.name} is none")
    tokenizer = get_object(config["tokenizer"]["_target_"]).from_state(ours["tokenizer"])
    prepared = data.prepare(tokenizer, context_length=config["context_length"], progress=show_pieces)
    train, val = (np.asarray(part.tokens) for part in (prepared.train, prepared.val))  # type: ignore[attr-defined]
    try:
        sizes = {"vocab_size": tokenizer.vocab_size}
        return {f"{order}-gram": ngram_loss(train, val, order=order, **sizes) for order in orders}
    except ValueError as error:
        raise UserError(str(error)) from None
