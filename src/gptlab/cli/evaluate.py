"""`gptlab evaluate`: the exact loss of a text, or tasks of lm-evaluation-harness. Imports no Lightning.

The result is JSON on standard output; what is for the eye goes to standard error.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gptlab import build
from gptlab.checkpoint import Loaded
from gptlab.cli.asked_for import load_asked_for
from gptlab.cli.compose import run_command
from gptlab.cli.progress import log_lines_on_stderr, progress_line
from gptlab.cli.report import shortened
from gptlab.data.corpus import Corpus, GivenTokenizer, prepare
from gptlab.data.windows import EveryTarget, n_for_training
from gptlab.errors import UserError
from gptlab.evaluation.loss import TextLoss, running_loss
from gptlab.generation.preparation import PRECISIONS
from gptlab.objective import Batch
from gptlab.settings import EvaluationSettings
from gptlab.training.devices import check_weights_precision, device_type
from gptlab.training.log import show_pieces


def main(arguments: list[str]) -> int:
    """The exit status of one evaluation command."""
    return run_command(evaluate, config_name="evaluate", arguments=arguments)


def evaluate(cfg: DictConfig) -> int:
    """Measure; show the result to a person, and print it for a program."""
    config = build.resolve(_without_text(cfg) if cfg.task is not None else cfg)
    settings = build.evaluation_settings(config)
    device = device_type(settings.accelerator, key="accelerator")
    check_weights_precision(settings.precision, device)
    with log_lines_on_stderr():
        result = _of_tasks(settings, device) if settings.tasks else _of_text(config, settings, device)
    print(json.dumps(_finite(result), indent=2))
    return 0


def _without_text(cfg: DictConfig) -> DictConfig:
    """A task brings its own text: raises UserError where the command line names one too."""
    for override in HydraConfig.get().overrides.task:
        key = override.partition("=")[0].lstrip("+~")
        if key.partition(".")[0] == "data":
            raise UserError(f"{key} belongs to a text, and a task brings its own: leave {key} or task out")
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "data"])


def _loaded(settings: EvaluationSettings, device: str) -> Loaded:
    """The model, where it shall compute."""
    loaded = load_asked_for(settings.checkpoint)
    loaded.needed_tokenizer()
    if settings.checkpoint is None:
        print(f"the newest run: {loaded.path}", file=sys.stderr)
    loaded.model.to(device, PRECISIONS[str(settings.precision)])
    return loaded


def _facts(settings: EvaluationSettings, loaded: Loaded, device: str) -> dict[str, Any]:
    """What was measured, and how: of a text as of tasks."""
    return {
        "checkpoint": settings.checkpoint if settings.checkpoint is not None else shortened(loaded.path),
        "path": str(loaded.path),
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "context_length": loaded.model.context_length,
        "precision": str(settings.precision),
        "accelerator": device,
    }


# -- a text --------------------------------------------------------------------------------------------------------


def _of_text(config: build.Config, settings: EvaluationSettings, device: str) -> dict[str, Any]:
    """The exact loss of a text, with all that it depends on."""
    knobs = build.data_settings(config)
    source = build.source(config)
    loaded = _loaded(settings, device)
    tokenizer, context_length = loaded.needed_tokenizer(), loaded.model.context_length
    stride = knobs.stride if knobs.stride is not None else context_length
    if stride > context_length:
        raise UserError(f"stride={stride} is more than the model's context_length={context_length}: use no more")
    corpus = prepare(source, GivenTokenizer(tokenizer), cache_dir=knobs.cache_dir, progress=show_pieces)
    tokens = _tokens(corpus, val_fraction=knobs.val_fraction)
    if len(tokens) < 2:
        raise UserError(f"{source.name} has {len(tokens)} token(s): only one that follows another can be predicted")
    windows = EveryTarget(tokens, context_length=context_length, stride=stride)
    loss, seconds = _measured(loaded, windows, batch_size=settings.batch_size)
    lengths = tokenizer.byte_lengths
    n_bytes = windows.n_bytes(lengths) if lengths is not None else None
    result = {
        "loss": loss.mean,
        "perplexity": loss.perplexity,
        "bits_per_byte": loss.sum / math.log(2) / n_bytes if n_bytes else None,
        "tokens": loss.count,
        "bytes": n_bytes,
        "text": source.name,
        "text_fingerprint": corpus.fingerprint,
        "val_fraction": knobs.val_fraction,
        "stride": stride,
        **_facts(settings, loaded, device),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(loss.count / seconds, 1),
    }
    for name, value in _rows(result).items():
        print(f"  {name:14} {value}", file=sys.stderr)
    return result


def _tokens(corpus: Corpus, *, val_fraction: float) -> np.ndarray:
    """The whole text, without the end-of-text token behind it; or the tail that a run validates on, which has it."""
    if val_fraction < 1:
        return corpus.tokens[n_for_training(len(corpus.tokens), val_fraction=val_fraction) :]
    return corpus.tokens if corpus.tokenizer.eot is None else corpus.tokens[:-1]


def _measured(loaded: Loaded, windows: EveryTarget, *, batch_size: int) -> tuple[TextLoss, float]:
    """The loss over all windows, and how long that took, in seconds."""

    def batches() -> Iterator[Batch]:
        for start in range(0, len(windows), batch_size):
            yield windows.batch(np.arange(start, min(start + batch_size, len(windows))))

    began = time.monotonic()
    with progress_line("evaluating", len(windows.tokens) - 1, unit="tokens") as show:
        for loss in running_loss(loaded.model, batches()):
            show(loss.count, f"loss {loss.mean:.3f}")
    return loss, time.monotonic() - began


def _rows(result: dict[str, Any]) -> dict[str, str]:
    bits = result["bits_per_byte"]
    return {
        "loss": f"{result['loss']:.4f} nats per token",
        "perplexity": f"{result['perplexity']:.2f}",
        "bits per byte": f"{bits:.4f}" if bits is not None else "not known: this tokenizer loses bytes",
        "tokens": f"{result['tokens']:,}",
        "windows": f"of {result['context_length']:,} tokens, one every {result['stride']:,}",
        "speed": f"{result['tokens_per_second']:,.0f} tokens/s",
    }


# -- tasks ---------------------------------------------------------------------------------------------------------


def _of_tasks(settings: EvaluationSettings, device: str) -> dict[str, Any]:
    """What the harness finds. Its names are read before a model is fetched."""
    harness = _harness()
    began = time.monotonic()
    try:
        tasks = harness.Tasks(settings.tasks)
        loaded = _loaded(settings, device)
        lm = harness.GptlabLM(
            loaded.model,
            loaded.needed_tokenizer(),
            batch_size=settings.batch_size,
            progress=lambda what, total: progress_line(what, total, unit="requests"),
        )
        found = harness.run_tasks(lm, tasks, num_fewshot=settings.num_fewshot, limit=settings.limit)
    except harness.UnanswerableError as error:
        raise UserError(str(error)) from None
    print(found.pop("table"), file=sys.stderr)
    return {
        **found,
        "task": settings.tasks,
        "num_fewshot": settings.num_fewshot,
        "limit": settings.limit,
        **_facts(settings, loaded, device),
        "seconds": round(time.monotonic() - began, 3),
    }


def _harness() -> ModuleType:
    """The adapter, which imports lm-evaluation-harness."""
    try:
        from gptlab.evaluation import harness
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise UserError(
            "task= needs lm-evaluation-harness, which is not installed: pip install 'gptlab[eval]'"
        ) from None
    return harness


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
