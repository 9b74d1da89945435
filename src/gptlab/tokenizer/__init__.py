"""Tokenizers: text to integer ids and back, one file each, all with the promises of `Tokenizer`."""

from gptlab.tokenizer.base import Tokenizer

__all__ = ["Tokenizer"]
