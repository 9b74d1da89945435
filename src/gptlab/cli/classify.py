"""`gptlab classify`: the label of each text, with the probabilities of all labels. Imports no Lightning."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from gptlab import build
from gptlab.cli.compose import run_command
from gptlab.cli.free_text import texts
from gptlab.cli.load import load_or_newest
from gptlab.errors import UserError
from gptlab.training.devices import device_type

AT_ONCE = 16


@dataclass(frozen=True)
class ClassifySettings:
    """The settings of classify.yaml."""

    checkpoint: str | None
    trust: str | list[str] | None
    base: str | None
    text: str | list[str] | None
    path: str | None
    json: bool
    accelerator: str

    def __post_init__(self) -> None:
        if (self.text is None) == (self.path is None):
            raise ValueError("name what to classify, either text=<text> (it may be given several times) or path=<file>")


def classify(cfg: DictConfig) -> int:
    """Print one line for each text, in their order."""
    settings = build.settings_of(ClassifySettings, build.resolve(cfg))
    device = device_type(settings.accelerator, key="accelerator")
    written = texts(settings.text) if settings.path is None else _lines(settings.path)
    for number, text in enumerate(written, start=1):
        if not text.strip():
            raise UserError(f"{settings.path or 'text='}, line {number}: the text is empty")
    loaded = load_or_newest(settings.checkpoint, trust=settings.trust, base=settings.base, classifiers=True)
    loaded.model.to(device)
    for start in range(0, len(written), AT_ONCE):
        some = written[start : start + AT_ONCE]
        for text, shares in zip(some, loaded.classify(some), strict=True):
            label = max(shares, key=shares.__getitem__)
            line = "\t".join([label, *(f"{name} {share:.4f}" for name, share in shares.items())])
            about = {"text": text, "label": label, "probabilities": shares}
            print(json.dumps(about, ensure_ascii=False) if settings.json else line, flush=True)
    return 0


def _lines(path: str) -> list[str]:
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig") as file:
            return [line.rstrip("\n") for line in file]
    except UnicodeDecodeError as error:
        raise UserError(f"path={path} is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"path={path} cannot be read: {error.strerror or error}") from None


main = partial(run_command, classify, config_name="classify")
