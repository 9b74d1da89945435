"""The GPT, from token ids to logits. Read in this order: base, gpt, block, attention/plain, attention/fused, cache."""

from gptlab.model.base import LanguageModel
from gptlab.model.cache import KVCache
from gptlab.model.gpt import GPT

__all__ = ["GPT", "KVCache", "LanguageModel"]
