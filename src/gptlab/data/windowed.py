"""What texts and token shards share: settings of their windows, and how windows are cut from tokens."""

from typing import Literal

import numpy as np

from gptlab.data.base import Data, Examples
from gptlab.data.windows import DocumentWindows, EvalWindows, WindowDataset
from gptlab.errors import UserError
from gptlab.tokenizer import Tokenizer


class Windowed(Data):
    """Data that are windows of `context_length` tokens.

    Args:
        stride: tokens from one training window's start to the next one's; None for the context length.
        num_workers: processes that gather training batches; 0 for none.
        cache_dir: where what was read once is kept; None for the user's cache directory.
        document_mask: attention stays within a document, and positions begin anew in each; the mask costs time.
        first_token_loss: whether a document's first token (a leading end-of-text token is one) is a target, with
            document_mask: the input before it is of another document.

    Attributes:
        end_token: whether the end-of-text token stands before each document or after it.
    """

    end_token: Literal["leads", "trails"] = "trails"

    def __init__(
        self,
        *,
        stride: int | None,
        num_workers: int,
        cache_dir: str | None,
        document_mask: bool = False,
        first_token_loss: bool = True,
    ) -> None:
        if stride is not None and stride < 1:
            raise ValueError(f"stride={stride} must be at least 1; null is the context length")
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers} must be 0 or more")
        if cache_dir == "":
            raise ValueError("cache_dir= is empty: null is the user's cache directory")
        if not (document_mask or first_token_loss):
            raise ValueError("first_token_loss=false is for document_mask=true")
        self.stride, self.num_workers, self.cache_dir = stride, num_workers, cache_dir
        self.document_mask, self.first_token_loss = document_mask, first_token_loss

    def training_windows(self, tokens: np.ndarray, context_length: int, tokenizer: Tokenizer) -> Examples:
        """Windows of tokens (n_tokens,). Raises UserError if documents cannot be told apart."""
        windows = WindowDataset(tokens, context_length=context_length, stride=self.stride or context_length)
        return self.by_document(windows, tokenizer)

    def validation_windows(self, tokens: np.ndarray, context_length: int, tokenizer: Tokenizer) -> Examples:
        """Each token is a target once."""
        windows = EvalWindows(tokens, context_length=context_length, stride=context_length)
        return self.by_document(windows, tokenizer)

    def by_document(self, windows: WindowDataset | EvalWindows, tokenizer: Tokenizer) -> Examples:
        """The windows with the documents of their tokens, if there is a mask."""
        if not self.document_mask:
            return windows
        if tokenizer.eot is None:
            name = type(tokenizer).__name__
            raise UserError(f"data.document_mask=true: {name} has no end-of-text token; use tokenizer=bpe or gpt2")
        return DocumentWindows(
            windows, eot=tokenizer.eot, leads=self.end_token == "leads", first_token_loss=self.first_token_loss
        )
