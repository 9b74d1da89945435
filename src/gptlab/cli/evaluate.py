"""`gptlab evaluate`: the exact loss of a text, answers to instructions, or tasks of lm-evaluation-harness.

Imports no Lightning. The result is JSON on standard output. The table for people goes to standard error.
"""

import json
import math
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gptlab import build
from gptlab.arguments import NonNegative, Positive
from gptlab.checkpoint import Loaded
from gptlab.checkpoint.trust import check_trusted
from gptlab.cli import answers
from gptlab.cli.compose import run_command
from gptlab.cli.free_text import key_of, texts
from gptlab.cli.load import load_or_newest
from gptlab.cli.progress import progress_line, show_pieces
from gptlab.cli.report import shortened
from gptlab.data.base import Data
from gptlab.data.corpus import load_corpus
from gptlab.data.instructions import Instructions
from gptlab.data.text_windows import TextWindows
from gptlab.data.windows import EvalWindows
from gptlab.errors import UserError
from gptlab.evaluation.loss import running_loss
from gptlab.generation.preparation import PRECISIONS
from gptlab.training.devices import check_weights_precision, device_type

OF_TEXTS = ("stride", "val_fraction")
"""What evaluate.yaml sets of its data: other kinds of data have no such settings."""


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of evaluate.yaml; its text belongs to the data group."""

    checkpoint: str | None
    trust: str | list[str] | None
    base: str | None
    stride: int | None
    batch_size: Positive
    precision: Literal[32, "bf16"]
    accelerator: str
    task: str | list[str] | None
    num_fewshot: NonNegative | None
    limit: int | float | None
    split: Literal["train", "val", "test", "all"]
    max_new_tokens: Positive
    to: str | None

    def __post_init__(self) -> None:
        if self.limit is not None and (self.limit <= 0 or (self.limit > 1 and self.limit != int(self.limit))):
            raise ValueError(f"limit={self.limit} must be a whole number, or a share between 0 and 1; null is all")
        for name, value in {"num_fewshot": self.num_fewshot, "limit": self.limit}.items():
            if value is not None and not texts(self.task):
                raise ValueError(f"{name}={value} is for tasks: name one with task=<name>")
        if self.task and self.stride is not None:
            raise ValueError(f"stride={self.stride} is for a text: leave it out with task=")
        if "" in texts(self.task):
            raise ValueError("task= is empty: the name of a harness task, or the path of its .yaml file")


def evaluate(cfg: DictConfig) -> int:
    """Measure; print a table for people and the result for programs."""
    names_text = cfg.task is None and not OmegaConf.is_missing(cfg.data, "path")
    for key in map(key_of, HydraConfig.get().overrides.task):
        if key.partition(".")[0] == "data" and not names_text:
            raise UserError(f"{key} goes with data.path=<text or table>, without task=: name one, or leave {key} out")
    config = build.resolve(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "data" or names_text]))
    node = config.pop("data", {})
    if "template" in node:
        node = {name: value for name, value in node.items() if name not in OF_TEXTS}
    data = build.part({"data": node}, "data") if names_text else None
    settings = build.settings_of(EvaluationSettings, config)
    if settings.to is not None:
        answers.check_free(settings.to)
    device = device_type(settings.accelerator, key="accelerator")
    check_weights_precision(settings.precision, device)
    result = _run_tasks(settings, device) if settings.task else _measure(data, node, settings, device)
    print(json.dumps(json.loads(json.dumps(result), parse_constant=lambda nan: None), indent=2))  # JSON has no nan
    return 0


main = partial(run_command, evaluate, config_name="evaluate")


def _load(settings: EvaluationSettings, device: str) -> tuple[Loaded, dict[str, Any]]:
    """The model, on the device that computes, and what the result says of it."""
    loaded = load_or_newest(settings.checkpoint, trust=settings.trust, base=settings.base)
    loaded.needed_tokenizer()
    loaded.model.to(device, PRECISIONS[str(settings.precision)])
    return loaded, {
        "checkpoint": settings.checkpoint if settings.checkpoint is not None else shortened(loaded.path),
        "path": str(loaded.path),
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "precision": str(settings.precision),
        "accelerator": device,
    }


def _measure(data: Data | None, node: build.Config, settings: EvaluationSettings, device: str) -> dict[str, Any]:
    """What is measured of the named data, or else of the run's own, with all that it depends on."""
    loaded, about_model = _load(settings, device)
    is_own = data is None
    if data is None:
        data = _own_data(loaded, settings)
    elif isinstance(data, Instructions):
        typed = {key_of(one).replace("/", ".") for one in HydraConfig.get().overrides.task}
        data = answers.as_trained(node, loaded, typed)
    if isinstance(data, Instructions):
        how = {name: getattr(settings, name) for name in ("split", "batch_size", "max_new_tokens", "to")}
        return {**answers.measure_answers(loaded, data, **how), **about_model}
    if not isinstance(data, TextWindows):
        raise UserError(f"{data.name} is neither a text nor instructions: name one with data.path=<text>")
    if settings.to is not None:
        raise UserError(f"to={settings.to} is for answers to instructions: leave it out")
    return {**_measure_text(data, loaded, settings, is_own=is_own), **about_model}


def _measure_text(text: TextWindows, loaded: Loaded, settings: EvaluationSettings, *, is_own: bool) -> dict[str, Any]:
    """The exact loss of a text, or of the run's own validation text."""
    stride, context_length = text.stride, loaded.model.context_length
    if is_own:
        stride, context_length = settings.stride, loaded.config["context_length"]
    stride = stride or context_length
    corpus = load_corpus(text, loaded.needed_tokenizer(), cache_dir=text.cache_dir, progress=show_pieces)
    start, stop = text.evaluated(corpus)
    try:
        windows = EvalWindows(corpus.tokens[start:stop], context_length=context_length, stride=stride)
        examples = text.by_document(windows, corpus.tokenizer)
    except ValueError as error:
        raise UserError(f"{text.name}: {error}") from None
    batches = np.split(np.arange(len(windows)), range(settings.batch_size, len(windows), settings.batch_size))
    began = time.monotonic()
    with progress_line("evaluating", len(windows.tokens) - 1, unit="tokens") as show:
        for loss in running_loss(loaded.model, map(examples.batch, batches)):
            show(loss.count, f"loss {loss.mean:.3f}")
    seconds = time.monotonic() - began
    n_bytes = corpus.n_bytes(start + 1, stop)
    bits_per_byte = loss.sum / math.log(2) / n_bytes if n_bytes else None
    table = {
        "loss": f"{loss.mean:.4f} nats per token",
        "perplexity": f"{loss.perplexity:.2f}",
        "bits per byte": f"{bits_per_byte:.4f}" if bits_per_byte else "not known: this tokenizer loses bytes",
        "tokens": f"{loss.count:,}",
        "windows": f"of {context_length:,} tokens, one every {stride:,}",
        "speed": f"{loss.count / seconds:,.0f} tokens/s",
    }
    print("\n".join(f"  {name:14} {value}" for name, value in table.items()), file=sys.stderr)
    return {
        "loss": loss.mean,
        "perplexity": loss.perplexity,
        "bits_per_byte": bits_per_byte,
        "tokens": loss.count,
        "bytes": n_bytes,
        "text": text.name,
        "text_fingerprint": corpus.fingerprint,
        "val_fraction": text.val_fraction,
        "stride": stride,
        "context_length": context_length,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(loss.count / seconds, 1),
    }


def _own_data(loaded: Loaded, settings: EvaluationSettings) -> Data:
    """The data of the run, as its configuration builds them, if their class is gptlab's or trusted."""
    if "_target_" not in loaded.config.get("data", {}):
        raise UserError(f"data.path is missing: {loaded.name} has no text of its own, name one with data.path=<text>")
    check_trusted(loaded.config["data"], texts(settings.trust), where=str(loaded.path))
    return build.part(loaded.config, "data")


def _run_tasks(settings: EvaluationSettings, device: str) -> dict[str, Any]:
    """The results of the harness. Its tasks are found before a model is loaded."""
    try:
        from gptlab.evaluation import harness
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise UserError("task= needs lm-evaluation-harness: pip install 'gptlab[eval]'") from None
    began = time.monotonic()
    try:
        tasks = harness.Tasks(texts(settings.task))
        loaded, about_model = _load(settings, device)
        progress = partial(progress_line, unit="requests")
        lm = harness.GptlabLM(
            loaded.model, loaded.needed_tokenizer(), batch_size=settings.batch_size, progress=progress
        )
        found = harness.run_tasks(lm, tasks, num_fewshot=settings.num_fewshot, limit=settings.limit)
    except ValueError as error:
        raise UserError(str(error)) from None
    print(found.pop("table"), file=sys.stderr)
    return {
        **found,
        "task": tasks.names,
        "num_fewshot": settings.num_fewshot,
        "limit": settings.limit,
        "context_length": loaded.model.context_length,
        **about_model,
        "seconds": round(time.monotonic() - began, 3),
    }
