"""gptlab: a research framework around a GPT built from scratch. `gptlab.load(source)` opens what it has trained."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptlab.checkpoint import Loaded, load

__all__ = ["Loaded", "load"]


def __getattr__(name: str) -> Any:
    """Import on first use: `import gptlab` alone costs nothing."""
    if name in __all__:
        from gptlab import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module 'gptlab' has no attribute {name!r}")
