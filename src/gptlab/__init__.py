"""gptlab: a research framework around a GPT built from scratch.

`gptlab.load(source)` opens what it has trained. `compose`, `data_module` and `training_module` make the parts of a
run for a Lightning Trainer of your own.
"""

import importlib
from typing import Any

_PLACES = {
    "Loaded": "gptlab.checkpoint",
    "load": "gptlab.checkpoint",
    "compose": "gptlab.cli.compose",
    "data_module": "gptlab.cli.parts",
    "training_module": "gptlab.cli.parts",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import gptlab` alone costs nothing."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("gptlab")
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'gptlab' has no attribute {name!r}")
