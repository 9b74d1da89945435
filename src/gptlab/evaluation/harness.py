"""A model as EleutherAI's lm-evaluation-harness sees one: three kinds of requests, answered in batches.

What the harness's own Hugging Face backend does in a doubtful case is done here too, so that numbers can be compared:
what is too long is cut on its left, and a text begins behind the end-of-text token.
"""

import difflib
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, handle_non_serializable, make_disjoint_window, make_table

from gptlab.evaluation.loss import logits_at_targets
from gptlab.generation.continuation import continue_texts
from gptlab.generation.sampling import Sampler, make_sampler
from gptlab.model import GPT
from gptlab.objective.next_token import IGNORED
from gptlab.tokenizer import Tokenizer

MAX_NEW_TOKENS = 256  # where a task names no limit: the Hugging Face backend's
UNDERSTOOD = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(what is counted, how many there are) -> shows how many are done"""


class UnanswerableError(ValueError):
    """What is asked for cannot be done, by this model or at all: one sentence."""


class Tasks(TaskManager):
    """The harness's tasks, and those of files.

    Args:
        names: tasks, groups or tags of the harness, or paths of .yaml files.

    Raises:
        UnanswerableError: on a name that is none of these.
    """

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            if name.endswith((".yaml", ".yml")) and not Path(name).expanduser().is_file():
                raise UnanswerableError(f"task={name}: there is no such file")
        # the harness reads its fourteen thousand files for its index: seconds that a task of one's own can do without
        super().__init__(include_defaults=not all(_is_one_task(name) for name in names))
        for name in names:
            if name not in self.all_tasks and not Path(name).expanduser().is_file():
                match = difflib.get_close_matches(name, self.all_tasks, n=1, cutoff=0.5)
                hint = f"; did you mean {match[0]}?" if match else ""
                raise UnanswerableError(f"task={name} is neither a task of lm-evaluation-harness nor a file{hint}")
        self.names = list(names)

    def load(self, task_list: Any) -> Any:
        """Read the tasks and their data, from here or from the Hub."""
        try:
            return super().load(task_list)
        except Exception as error:  # a file of another form, data that are not there, no network: all in their own ways
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UnanswerableError(f"task={' task='.join(self.names)} cannot be loaded ({reason})") from error


def _is_one_task(name: str) -> bool:
    """Whether it is the file of a task that refers to no other."""
    path = Path(name).expanduser()
    return path.is_file() and not any(
        line.startswith("group:") for line in path.read_text("utf-8", "replace").splitlines()
    )


def run_tasks(lm: "GptlabLM", tasks: Tasks, *, num_fewshot: int | None, limit: float | None) -> dict[str, Any]:
    """The harness's results, plain data, and its table under `table`; seeds are the harness's own.

    Args:
        lm: the model.
        tasks: what it is asked.
        num_fewshot: examples in each prompt; None is what a task says.
        limit: examples of each task; a share of them, where it is less than 1; None is all.
    """
    with redirect_stdout(sys.stderr):
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        loaded = tasks.load(tasks.names)
        for task in loaded["tasks"].values():
            _set_fewshot(task, num_fewshot)
        try:
            found = lm_eval.evaluate(lm=lm, task_dict=loaded, limit=limit, log_samples=False)
        except ValueError as error:
            if "larger than population" not in str(error):
                raise
            raise UnanswerableError(f"num_fewshot={num_fewshot} is more than a task has examples: use fewer") from None
    tables = [make_table(found), *([make_table(found, "groups")] if "groups" in found else [])]
    kept = ("results", "groups", "higher_is_better", "n-shot", "n-samples", "versions")
    results = {name.replace("-", "_"): found[name] for name in kept if name in found}
    plain = json.loads(json.dumps(results, default=handle_non_serializable))
    return {**plain, "lm_eval_version": version("lm_eval"), "table": "\n".join(tables)}


def _set_fewshot(task: Task, num_fewshot: int | None) -> None:
    """As the harness's own command does: a task that says 0 means it, and one that says nothing has none."""
    its_own = task.get_config("num_fewshot")
    if num_fewshot is not None and its_own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif its_own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


class GptlabLM(TemplateLM):
    """Answers the harness's requests; several at a time, the longest first.

    Args:
        model: in evaluation mode.
        tokenizer: its own.
        batch_size: requests that are answered at once.
        progress: shows how many are.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, *, batch_size: int, progress: Progress) -> None:
        super().__init__()
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._progress = progress

    @property
    def eot_token_id(self) -> int:
        """What a text begins behind. Raises UnanswerableError where the vocabulary has none."""
        if self._tokenizer.eot is None:
            raise UnanswerableError(
                "a task asks for the probability of a text's first token, and this model's tokenizer has no "
                "end-of-text token for it to follow: use a model with another tokenizer (bpe, gpt2), or another task"
            )
        return self._tokenizer.eot

    @property
    def max_length(self) -> int:
        return self._model.context_length

    @property
    def max_gen_toks(self) -> int:
        """Of tasks that name no limit; at most half the context, so that half of it is left for the prompt."""
        return MAX_NEW_TOKENS if self.max_length > MAX_NEW_TOKENS else max(1, self.max_length // 2)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Text that spells a special token is text, as everywhere in gptlab."""
        try:
            return self._tokenizer.encode(string)
        except ValueError as error:
            raise UnanswerableError(f"a task's text: {error}") from None

    # -- how probable is a continuation ----------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether each of its tokens is the most likely one) of each request."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each whole text, in windows that lie end to end, as the harness cuts them."""
        windows, owners = [], []
        for owner, (text,) in enumerate(request.args for request in requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((("", ""), *make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (log_probability, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += log_probability
        return totals

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        answers: dict[int, tuple[float, bool]] = {}
        with self._progress("loglikelihood", len(rows)) as show:
            for members in self._batches(range(len(rows)), [len(inputs) for inputs, _ in rows]):
                answers.update(zip(members, self._score([rows[member] for member in members]), strict=True))
                show(len(answers))
        return [answers[member] for member in range(len(rows))]

    def _row(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Inputs, and the targets of the last of them; what does not fit is cut on the left, like the harness's own."""
        if len(continuation) > self.max_length:
            raise UnanswerableError(
                f"a task asks for a continuation of {len(continuation)} tokens, and this model's context_length is "
                f"{self.max_length}"
            )
        tokens = [*(context or [self.prefix_token_id]), *continuation][-(self.max_length + 1) :]
        return tokens[:-1], continuation

    def _score(self, rows: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """One batch, filled up on the right: a token never looks there."""
        longest = max(len(inputs) for inputs, _ in rows)
        shape = len(rows), longest
        all_inputs = torch.zeros(shape, dtype=torch.int64)  # (B, T)
        all_targets = torch.full(shape, IGNORED)  # (B, T)
        for row, (inputs, targets) in enumerate(rows):
            all_inputs[row, : len(inputs)] = torch.tensor(inputs)
            all_targets[row, len(inputs) - len(targets) : len(inputs)] = torch.tensor(targets)
        log_probabilities, are_likely = [], []
        for logits, wanted in logits_at_targets(self._model, all_inputs, all_targets):
            log_probabilities.append(-F.cross_entropy(logits, wanted, reduction="none").cpu().double())  # (n,)
            are_likely.append((logits.argmax(dim=-1) == wanted).cpu())  # (n,)
        lengths = [len(targets) for _, targets in rows]
        return [
            (float(some.sum()), bool(likely.all()))
            for some, likely in zip(
                torch.cat(log_probabilities).split(lengths), torch.cat(are_likely).split(lengths), strict=True
            )
        ]

    # -- what comes next -------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text that follows each prompt, to before the first of its stop strings."""
        prompts = [self.tok_encode(request.args[0]) or [self.prefix_token_id] for request in requests]
        alike: dict[str, list[int]] = {}  # requests that want the same settings can be answered together
        for member, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(member)
        texts: dict[int, str] = {}
        with self._progress("generate_until", len(prompts)) as show:
            for group in alike.values():
                for members in self._batches(group, [len(prompt) for prompt in prompts]):
                    wanted = requests[members[0]].args[1]
                    texts.update(zip(members, self._continue([prompts[i] for i in members], wanted), strict=True))
                    show(len(texts))
        return [texts[member] for member in range(len(prompts))]

    def _continue(self, prompts: list[list[int]], wanted: dict[str, Any]) -> list[str]:
        settings: dict[str, Any] = {**normalize_gen_kwargs(wanted, self.max_gen_toks)}
        room = self.max_length - settings["max_gen_toks"]
        if room < 1:
            raise UnanswerableError(
                f"a task generates up to {settings['max_gen_toks']} tokens, and this model's context_length="
                f"{self.max_length} leaves none of them for the prompt"
            )
        texts = [""] * len(prompts)
        for row, new_text in continue_texts(
            self._model,
            self._tokenizer,
            [prompt[-room:] for prompt in prompts],
            max_new_tokens=settings["max_gen_toks"],
            sampler=_sampler(settings),
            stops=settings["until"],
        ):
            texts[row] += new_text
        return texts

    def _batches(self, members: Iterable[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        """The longest first: what does not fit into memory shows at once, and little is filled up."""
        order = sorted(members, key=lambda member: -lengths[member])
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]


def _sampler(settings: dict[str, Any]) -> Sampler:
    """What a task's generation_kwargs ask for; the harness has seeded torch's own generator.

    Raises:
        UnanswerableError: on a way to generate that gptlab lacks, rather than to answer in another.
    """
    for name, value in settings.items():
        if name not in UNDERSTOOD and not (name == "num_beams" and value == 1):
            raise UnanswerableError(f"a task wants {name}={value} when text is generated, which gptlab does not know")
    try:
        return make_sampler(
            temperature=float(settings.get("temperature", 0.0)) if settings["do_sample"] else 0.0,
            top_k=settings.get("top_k") or None,  # 0 is the Hugging Face way to say: of all tokens
            top_p=settings.get("top_p"),
            generator=None,
        )
    except ValueError as error:
        raise UnanswerableError(f"a task's generation_kwargs: {error}") from None
