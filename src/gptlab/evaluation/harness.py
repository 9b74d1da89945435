"""A model for EleutherAI's lm-evaluation-harness: it answers three kinds of requests in batches.

In doubtful cases it does what the harness's own Hugging Face backend does, so that numbers compare: what is too long is
cut on the left, and a text follows the end-of-text token.
"""

import difflib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import Collator, normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, handle_non_serializable, make_disjoint_window, make_table
from torch import Tensor

from gptlab.evaluation.loss import at_targets
from gptlab.generation.sampling import make_sampler
from gptlab.generation.stream import continue_texts
from gptlab.model import LanguageModel
from gptlab.objective.base import IGNORED
from gptlab.tokenizer import Tokenizer

MAX_NEW_TOKENS = 256  # of tasks that name no limit, as in the Hugging Face backend
GENERATION_SETTINGS = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(what is counted, how many there are) -> shows how many are done"""


class Tasks(TaskManager):
    """Tasks, groups and tags of the harness, and tasks of .yaml files; ValueError on a name that is none of these."""

    def __init__(self, names: Sequence[str]) -> None:
        files = [path for path in (Path(name).expanduser() for name in names) if path.is_file()]
        refer = any("group:" in path.read_text("utf-8", "replace") for path in files)  # to the harness's own tasks
        super().__init__(include_defaults=refer or len(files) < len(names))  # their index has 14,000 files
        for name in names:
            if name not in self.all_tasks and Path(name).expanduser() not in files:
                match = difflib.get_close_matches(name, self.all_tasks, n=1, cutoff=0.5)
                hint = f"; did you mean {match[0]}?" if match else ""
                raise ValueError(f"task={name} is neither a task of lm-evaluation-harness nor a file{hint}")
        self.names = list(names)

    def load(self, task_list: Any) -> Any:
        """Read the tasks and their data, from here or from the Hub."""
        try:
            return super().load(task_list)
        except Exception as error:  # each kind of broken file, missing data and network failure raises its own
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise ValueError(f"task={' task='.join(self.names)} cannot be loaded ({reason})") from error


def run_tasks(lm: "GptlabLM", tasks: Tasks, *, num_fewshot: int | None, limit: float | None) -> dict[str, Any]:
    """The harness's results, plain data, and its table under `table`; seeds are the harness's own.

    `num_fewshot` None is each task's own number; a `limit` below 1 is a share of its examples. ValueError, in one
    sentence, if the model, or gptlab, cannot do what a task asks for.
    """
    asked = {"tasks": tasks.names, "task_manager": tasks, "num_fewshot": num_fewshot, "limit": limit}
    with redirect_stdout(sys.stderr):
        found = lm_eval.simple_evaluate(lm, **asked, log_samples=False)
    tables = [make_table(found), *([make_table(found, "groups")] if "groups" in found else [])]
    kept = ("results", "groups", "higher_is_better", "n-shot", "n-samples", "versions")
    results = {name.replace("-", "_"): found[name] for name in kept if name in found}
    plain = json.loads(json.dumps(results, default=handle_non_serializable))
    return {**plain, "lm_eval_version": version("lm_eval"), "table": "\n".join(tables)}


class GptlabLM(TemplateLM):
    """Answers the harness's requests, `batch_size` at once, with a model in evaluation mode and its tokenizer."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, *, batch_size: int, progress: Progress) -> None:
        super().__init__()
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._progress = progress

    @property
    def eot_token_id(self) -> int:
        """What precedes a text. Raises ValueError if the vocabulary has no such token."""
        if self._tokenizer.eot is None:
            raise ValueError("a task asks for a text's first token, and the tokenizer has no end-of-text token")
        return self._tokenizer.eot

    @property
    def max_length(self) -> int:
        return self._model.context_length

    @property
    def max_gen_toks(self) -> int:
        """New tokens for tasks that name no limit. A short context keeps half of its length for the prompt."""
        return MAX_NEW_TOKENS if self.max_length > MAX_NEW_TOKENS else max(1, self.max_length // 2)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Text that spells a special token is text, as everywhere in gptlab."""
        return self._tokenizer.encode(string)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each whole text, in consecutive windows as the harness cuts them."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            tokens, prefix = self.tok_encode(request.args[0]), self.prefix_token_id
            for window in get_rolling_token_windows(tokens, prefix, self.max_length, context_len=1):
                windows.append((("", ""), *make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (log_probability, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += log_probability
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text that follows each prompt, up to the first of its stop strings."""
        asked = (request.args for request in requests)
        rows = [(self.tok_encode(prompt) or [self.prefix_token_id], settings) for prompt, settings in asked]
        return self._in_batches("generate_until", rows, self._continue, group_by="gen_kwargs")

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """For each request: log-probability of the continuation, and whether each of its tokens is the most likely."""
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        return self._in_batches("loglikelihood", rows, self._score)

    def _in_batches(
        self, what: str, rows: list[Any], answer: Callable[[list[Any]], list[Any]], group_by: Any = None
    ) -> list[Any]:
        """The answer to each row (tokens, ...).

        The longest rows come first: a batch that does not fit into memory fails at once, and there is little padding.
        """
        order = Collator(rows, sort_fn=lambda row: -len(row[0]), group_by=group_by)
        answers: list[Any] = []
        with self._progress(what, len(rows)) as show:
            for batch in order.get_batched(n=self._batch_size):
                answers += answer(batch)
                show(len(answers))
        return order.get_original(answers)

    def _row(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Inputs, and the targets of the last of them; what does not fit is cut on the left, as the harness does."""
        if len(continuation) > self.max_length:
            n_tokens, limit = len(continuation), f"this model's context_length is {self.max_length}"
            raise ValueError(f"a task asks for a continuation of {n_tokens} tokens, and {limit}")
        tokens = [*(context or [self.prefix_token_id]), *continuation][-(self.max_length + 1) :]
        return tokens[:-1], continuation

    def _score(self, rows: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """One batch, padded on the right: a causal model never looks there."""
        shape = len(rows), max(len(inputs) for inputs, _ in rows)
        all_inputs = torch.zeros(shape, dtype=torch.int64)  # (B, T)
        all_targets = torch.full(shape, IGNORED)  # (B, T)
        for row, (inputs, targets) in enumerate(rows):
            all_inputs[row, : len(inputs)] = torch.tensor(inputs)
            all_targets[row, len(inputs) - len(targets) : len(inputs)] = torch.tensor(targets)
        chunks = at_targets(self._model, all_inputs, all_targets, _log_probabilities)
        log_probabilities, are_likely = (torch.cat(column) for column in zip(*chunks, strict=True))
        lengths = [len(targets) for _, targets in rows]
        return [
            (float(some.sum()), bool(likely.all()))
            for some, likely in zip(log_probabilities.split(lengths), are_likely.split(lengths), strict=True)
        ]

    def _continue(self, rows: list[tuple[list[int], dict[str, Any]]]) -> list[str]:
        """Text for prompts with the same settings. Refuses settings that gptlab lacks."""
        settings: dict[str, Any] = {**normalize_gen_kwargs(rows[0][1], self.max_gen_toks)}
        for name, value in settings.items():
            if name not in GENERATION_SETTINGS and (name, value) != ("num_beams", 1):
                raise ValueError(f"a task generates with {name}={value}, which gptlab does not know")
        limit = settings["max_gen_toks"]
        room = self.max_length - limit
        if room < 1:
            length = f"context_length={self.max_length}"
            raise ValueError(f"a task generates up to {limit} tokens: {length} leaves none for the prompt")
        sampler = make_sampler(
            temperature=settings.get("temperature", 0.0),
            top_k=settings.get("top_k") or None,  # Hugging Face writes 0 for no limit
            top_p=settings.get("top_p"),
            generator=None,  # torch's own, which the harness has seeded
        )
        prompts = [prompt[-room:] for prompt, _ in rows]
        texts = [""] * len(prompts)
        for row, new_text in continue_texts(
            self._model, self._tokenizer, prompts, max_new_tokens=limit, sampler=sampler, stops=settings["until"]
        ):
            texts[row] += new_text
        return texts


def _log_probabilities(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, (n,), and whether it is the most likely token, (n,)."""
    log_probabilities = -F.cross_entropy(logits, targets, reduction="none")
    return log_probabilities.cpu().double(), (logits.argmax(dim=-1) == targets).cpu()
