"""Models with what belongs to them: from a run, a checkpoint, a Hugging Face directory or the Hub, and out again."""

from gptlab.checkpoint.loaded import Loaded
from gptlab.checkpoint.source import load

__all__ = ["Loaded", "load"]
