"""Hugging Face directories in: transformers builds them and is the judge."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import gptlab
from conftest import TEXTS, needs_gpt2_vocabulary
from gpt2s import make_gpt2, save_gpt2, some_tokens
from gptlab.errors import UserError
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.gpt2 import TIKTOKENS_FILE, GPT2Tokenizer

Tensors = dict[str, torch.Tensor]

SHAPES = {
    "tied": {},
    "head of its own": {"tie_word_embeddings": False},
    "odd sizes": {"vocab_size": 127, "n_embd": 24, "n_head": 3, "n_layer": 1},
    "the other name of its GELU": {"activation_function": "gelu_pytorch_tanh"},
}


def assert_same_logits(directory: Path, theirs: torch.nn.Module) -> None:
    ours = gptlab.load(directory).model
    tokens = some_tokens(ours.vocab_size)
    with torch.no_grad():
        assert (ours(tokens) - theirs(tokens).logits).abs().max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_transformers_own(tmp_path: Path, shape: str) -> None:
    theirs = save_gpt2(tmp_path, **SHAPES[shape])
    assert_same_logits(tmp_path, theirs)


def test_sharded_weights_are_read_from_all_their_files(tmp_path: Path) -> None:
    theirs = make_gpt2()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    assert_same_logits(tmp_path, theirs)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    theirs = make_gpt2().to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    loaded = gptlab.load(tmp_path)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert torch.equal(loaded.model.token_vectors, theirs.transformer.wte.weight.float())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that tests copy."""
    directory = tmp_path_factory.mktemp("whole")
    save_gpt2(directory)
    return directory


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "gpt2s")


def rewrite(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file(change(dict(tensors)), directory / "model.safetensors", metadata={"format": "pt"})


def as_in_2019(tensors: Tensors) -> Tensors:
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 24, 24).tril() for layer in range(2)}
    return {**masks, **{name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}}


def with_the_head(tensors: Tensors) -> Tensors:
    return {**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone()}


@pytest.mark.parametrize("change", [as_in_2019, with_the_head])
def test_other_spellings_of_the_same_weights_load(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    """OpenAI's own files have masks and no prefix, as those of a bare trunk; others write a tied tensor twice."""
    rewrite(directory, change)
    assert_same_logits(directory, make_gpt2())
    assert gptlab.load(directory).config["model"]["tie_head"] is True


C_ATTN = "transformer.h.1.attn.c_attn.weight"
DAMAGES = {
    # what is done to the tensors, and words of the sentence
    "missing": (lambda t: {name: t[name] for name in t if name != C_ATTN}, f"the tensor {C_ATTN} is missing"),
    "one layer too many": (
        lambda t: {**t, "transformer.h.2.ln_1.weight": torch.zeros(32)},
        "the tensor transformer.h.2.ln_1.weight is none of a GPT-2 of this size",
    ),
    "not transposed": (
        lambda t: {**t, C_ATTN: t[C_ATTN].t().contiguous()},
        f"the tensor {C_ATTN} has the shape (96, 32), not (32, 96)",
    ),
    "not a number": (
        lambda t: {**t, C_ATTN: torch.full((32, 96), torch.nan)},
        f"the tensor {C_ATTN} holds nan or infinity",
    ),
}


def said(source: Path) -> str:
    with pytest.raises(UserError) as error:
        gptlab.load(source)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_tensor_that_does_not_fit_is_named(directory: Path, damage: str) -> None:
    change, words = DAMAGES[damage]
    rewrite(directory, change)
    assert words in said(directory)


CONFIGS = {
    "another activation": ({"activation_function": "relu"}, "activation_function=relu is not GPT-2's arithmetic"),
    "another feed-forward": ({"n_inner": 100}, "n_inner=100 must be 4 x n_embd = 128"),
    "no dropout at all": ({"resid_pdrop": None}, "model.dropout=null must be a number"),
    "heads that do not divide": ({"n_head": 5}, "d_model=32 is not divisible by n_heads=5"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_of_something_else_is_named(directory: Path, case: str) -> None:
    change, words = CONFIGS[case]
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert words in said(directory)


INDEX = b'{"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}'
BROKEN = {
    # what files hold (None: the file is not there, empty: its end is missing), and words of the sentence
    "truncated": ({"model.safetensors": b""}, "model.safetensors is not a whole safetensors file"),
    "no JSON": ({"config.json": b"{"}, "config.json is no JSON object"),
    "git-lfs pointer": ({"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "is not a whole"),
    "an index of what is not there": (
        {"model.safetensors": None, "model.safetensors.index.json": INDEX},
        "it has no model-00001-of-00002.safetensors",
    ),
    "tokenizer of nothing": ({"tokenizer.json": b'{"model": []}'}, "this is no tokenizer.json"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_missing_or_broken_are_named(directory: Path, case: str) -> None:
    contents, words = BROKEN[case]
    for name, content in contents.items():
        before = (directory / name).read_bytes() if (directory / name).exists() else b""
        (directory / name).unlink(missing_ok=True)
        if content is not None:
            (directory / name).write_bytes(content or before[:-100])
    assert words in said(directory)


def test_without_tokenizer_files_there_is_no_tokenizer(whole: Path) -> None:
    loaded = gptlab.load(whole)
    assert loaded.tokenizer is None
    with pytest.raises(UserError, match="has no tokenizer"):
        loaded.needed_tokenizer()


@needs_gpt2_vocabulary
def test_gpt2s_tokenizer_is_known_by_its_size_and_its_merges(tmp_path: Path) -> None:
    save_gpt2(tmp_path, vocab_size=50257, n_embd=4)
    assert isinstance(gptlab.load(tmp_path).tokenizer, GPT2Tokenizer)
    shutil.copy(TEXTS / "tiktoken-cache" / TIKTOKENS_FILE, tmp_path / "merges.txt")
    tokenizer = gptlab.load(tmp_path).needed_tokenizer()
    assert tokenizer.state().keys() == {"merges"}, "it needs no file but its checkpoint from now on"
    assert tokenizer.encode("Hello, I am") == [15496, 11, 314, 716]
    (tmp_path / "merges.txt").write_text("#version: 0.2\nb c\n")
    assert gptlab.load(tmp_path).tokenizer is None, "another kind of tokenizer"


def test_any_tokenizer_file_is_read(tmp_path: Path) -> None:
    bpe = BPETokenizer.train(["the cat sat on the mat, the cat sat"], vocab_size=264)
    save_gpt2(tmp_path, vocab_size=bpe.vocab_size)
    bpe.to_tokenizers().save(str(tmp_path / "tokenizer.json"))
    tokenizer = gptlab.load(tmp_path).needed_tokenizer()
    assert tokenizer.encode("the caté<|endoftext|>") == bpe.encode("the caté<|endoftext|>")
    assert tokenizer.eot == bpe.eot
    BPETokenizer.train([], vocab_size=257).to_tokenizers().save(str(tmp_path / "tokenizer.json"))
    assert f"its tokenizer has 257 tokens, its model {bpe.vocab_size}" in said(tmp_path)
