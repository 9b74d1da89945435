"""lm-evaluation-harness finds the same through gptlab as through its own Hugging Face backend, on the same weights."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pytest
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate

from conftest import POEM
from gpt2s import save_gpt2
from gptlab.checkpoint import Loaded, load
from gptlab.evaluation.harness import GptlabLM, Tasks
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer

CONTEXT = 40
LINES = [line for line in POEM.splitlines() if line]

COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
"""
TASKS = {
    "choosing": """
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{long}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "writing": """
output_type: generate_until
doc_to_text: "{{long}}"
doc_to_target: "{{text}}"
generation_kwargs: {until: ["e", "fog"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: bleu}]
""",
}


@contextmanager
def unseen(what: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The path of each task's file; a task needs no download."""
    directory = tmp_path_factory.mktemp("tasks")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", directory / "cache")
    documents = [
        {
            "text": line if number > 0 else "",
            "long": " ".join(LINES[number:] * (1 + number)),  # some fit into the context, some do not
            "choices": ["on little cat feet.", "and", "moves on. " * 3][: 2 + number % 2],
            "answer": number % 2,
        }
        for number, line in enumerate(LINES)
    ]
    (directory / "data.json").write_text("\n".join(map(json.dumps, documents)))
    for name, text in TASKS.items():
        task = f"task: {name}{COMMON}{text}".replace("DATA", str(directory / "data.json"))
        (directory / f"{name}.yaml").write_text(task)
    yield {name: str(directory / f"{name}.yaml") for name in TASKS}
    patch.undo()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    directory = tmp_path_factory.mktemp("gpt2")
    bpe = BPETokenizer.train([POEM], vocab_size=300)
    ends = {"eos_token_id": bpe.eot, "bos_token_id": bpe.eot}
    save_gpt2(directory, vocab_size=bpe.vocab_size, n_positions=CONTEXT, **ends)
    bpe.to_tokenizers().save(str(directory / "tokenizer.json"))
    return load(directory)


@pytest.fixture(scope="module")
def ours(loaded: Loaded) -> GptlabLM:
    return GptlabLM(loaded.model, loaded.needed_tokenizer(), batch_size=3, progress=unseen)


@pytest.fixture(scope="module")
def theirs(loaded: Loaded) -> Any:
    from lm_eval.models.huggingface import HFLM  # seconds, which only those who need it pay
    from transformers import PreTrainedTokenizerFast

    special = dict.fromkeys(("eos_token", "bos_token", "pad_token"), "<|endoftext|>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(loaded.path / "tokenizer.json"), **special)
    return HFLM(pretrained=str(loaded.path), tokenizer=tokenizer, batch_size=3, device="cpu")


@pytest.fixture(autouse=True)
def without_asking_what_machine_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness asks pip and others, a second each time."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def found(lm: Any, path: str) -> dict[str, Any]:
    return simple_evaluate(model=lm, tasks=[path], task_manager=Tasks([path]), log_samples=True, bootstrap_iters=0)


@pytest.mark.parametrize("name", TASKS)
def test_both_backends_find_the_same(ours: GptlabLM, theirs: Any, tasks: dict[str, str], name: str) -> None:
    mine, its = (found(lm, tasks[name]) for lm in (ours, theirs))
    numbers = {metric: value for metric, value in its["results"][name].items() if isinstance(value, float)}
    assert numbers
    for metric, value in numbers.items():
        assert mine["results"][name][metric] == pytest.approx(value, rel=1e-4), metric
    for my_sample, its_sample in zip(mine["samples"][name], its["samples"][name], strict=True):
        my_answers, its_answers = my_sample["resps"], its_sample["resps"]
        assert len(my_answers) == len(its_answers) > 0
        for (my_answer,), (its_answer,) in zip(my_answers, its_answers, strict=True):
            if isinstance(its_answer, tuple):
                assert my_answer[0] == pytest.approx(its_answer[0], rel=1e-4)
                assert my_answer[1] == its_answer[1]
            elif isinstance(its_answer, float):
                assert my_answer == pytest.approx(its_answer, rel=1e-4)
            else:
                assert my_answer == its_answer


def request(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.mark.parametrize("batch_size", [1, 100])
def test_a_batch_changes_nothing(loaded: Loaded, ours: GptlabLM, batch_size: int) -> None:
    lm = GptlabLM(loaded.model, loaded.needed_tokenizer(), batch_size=batch_size, progress=unseen)
    pairs = [request("loglikelihood", " ".join(LINES[:n]), LINES[n]) for n in range(len(LINES))]
    texts = [request("loglikelihood_rolling", " ".join(LINES[n:])) for n in range(len(LINES))]
    limits = [{"until": ["fog"], "max_gen_toks": 3 + n % 2} for n in range(len(LINES))]
    prompts = [request("generate_until", " ".join(LINES[n:]), limits[n]) for n in range(len(LINES))]
    for (one, one_is_likely), (three, three_is_likely) in zip(
        lm.loglikelihood(pairs), ours.loglikelihood(pairs), strict=True
    ):
        assert one == pytest.approx(three, rel=1e-5)
        assert one_is_likely == three_is_likely
    assert lm.loglikelihood_rolling(texts) == pytest.approx(ours.loglikelihood_rolling(texts), rel=1e-5)
    assert lm.generate_until(prompts) == ours.generate_until(prompts)


def test_without_an_end_of_text_token_only_what_needs_none_is_answered(tmp_path: Path) -> None:
    characters = CharTokenizer.train([POEM])
    save_gpt2(tmp_path, vocab_size=characters.vocab_size)
    lm = GptlabLM(load(tmp_path).model, characters, batch_size=2, progress=unseen)
    assert lm.loglikelihood([request("loglikelihood", "The fog", " comes")])[0][0] < 0
    assert len(lm.generate_until([request("generate_until", "The fog", {"until": ["!"], "max_gen_toks": 5})])) == 1
    with pytest.raises(ValueError, match="has no end-of-text token"):
        lm.loglikelihood_rolling([request("loglikelihood_rolling", "The fog")])
    with pytest.raises(ValueError, match="the character 'Q' is not in the vocabulary"):
        lm.loglikelihood([request("loglikelihood", "Q", "The")])


def test_what_cannot_be_done_is_one_sentence(ours: GptlabLM) -> None:
    with pytest.raises(ValueError, match=r"a continuation of \d+ tokens, and this model's context_length is 40"):
        ours.loglikelihood([request("loglikelihood", "It", " sits looking" * CONTEXT)])
    assert ours.max_gen_toks == CONTEXT // 2, "half of a short context is left to the prompt"
    for settings, words in {
        "max_gen_toks": (CONTEXT, "up to 40 tokens: context_length=40 leaves none"),
        "num_beams": (4, "num_beams=4"),
    }.items():
        value, sentence = words
        wanted = {"until": ["!"], "do_sample": True, "temperature": 1.0, "max_gen_toks": 4, settings: value}
        with pytest.raises(ValueError, match=sentence):
            ours.generate_until([request("generate_until", "It", wanted)])
