"""Hugging Face directories in: transformers builds them and is the judge."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Model

import gptlab
from conftest import TEXTS, needs_gpt2_vocabulary
from gpt2s import make_gpt2, save_gpt2, some_tokens
from gptlab.errors import UserError
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.gpt2 import GPT2Tokenizer

SHAPES = {
    "tied": {},
    "head of its own": {"tie_word_embeddings": False},
    "odd vocabulary": {"vocab_size": 127, "n_embd": 24, "n_head": 3},
    "one layer, one head": {"n_layer": 1, "n_head": 1},
    "deep and narrow": {"n_layer": 5, "n_embd": 8, "n_head": 2, "n_positions": 40},
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


def rewrite(directory: Path, change: object) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file(change(dict(tensors)), directory / "model.safetensors", metadata={"format": "pt"})  # type: ignore[operator]


def test_openais_own_files_without_prefix_and_with_masks_load(tmp_path: Path) -> None:
    theirs = save_gpt2(tmp_path)

    def as_in_2019(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        for layer in range(2):
            old[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
            old[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        return old

    rewrite(tmp_path, as_in_2019)
    assert_same_logits(tmp_path, theirs)


def test_a_trunk_saved_without_head_loads(tmp_path: Path) -> None:
    theirs = make_gpt2()
    bare = GPT2Model(theirs.config)
    bare.load_state_dict(theirs.transformer.state_dict())
    bare.save_pretrained(tmp_path)
    assert_same_logits(tmp_path, theirs)


def test_a_tied_tensor_written_twice_loads(tmp_path: Path) -> None:
    theirs = save_gpt2(tmp_path)
    rewrite(tmp_path, lambda tensors: {**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone()})
    assert_same_logits(tmp_path, theirs)
    assert gptlab.load(tmp_path).config["model"]["tie_head"] is True


def without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


C_ATTN = "transformer.h.1.attn.c_attn.weight"
DAMAGES = {
    # what is done to the tensors, and words of the sentence
    "missing": (lambda t: without(t, C_ATTN), f"the tensor {C_ATTN} is missing"),
    "extra": (
        lambda t: {**t, "transformer.h.1.adapter.weight": torch.zeros(2)},
        "the tensor transformer.h.1.adapter.weight is none of a GPT-2 of this size",
    ),
    "one layer too many": (
        lambda t: {**t, "transformer.h.2.ln_1.weight": torch.zeros(32)},
        "transformer.h.2.ln_1.weight is none",
    ),
    "not transposed": (
        lambda t: {**t, C_ATTN: t[C_ATTN].t().contiguous()},
        f"the tensor {C_ATTN} has the shape (96, 32), not (32, 96)",
    ),
    "a head for something else": (
        lambda t: {**t, "score.weight": torch.zeros(2, 32)},
        "the tensor score.weight is none",
    ),
    "not a number": (
        lambda t: {**t, C_ATTN: torch.full((32, 96), torch.nan)},
        f"the tensor {C_ATTN} holds nan or infinity",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_tensor_that_does_not_fit_is_named(tmp_path: Path, damage: str) -> None:
    save_gpt2(tmp_path)
    change, words = DAMAGES[damage]
    rewrite(tmp_path, change)
    with pytest.raises(UserError) as error:
        gptlab.load(tmp_path)
    assert words in str(error.value)


CONFIGS = {
    "another architecture": ({"model_type": "llama"}, "its architecture is llama, and only gpt2 can be read"),
    "another activation": ({"activation_function": "relu"}, "activation_function=relu is not GPT-2's arithmetic"),
    "another feed-forward": ({"n_inner": 100}, "n_inner=100 must be 4 x n_embd = 128"),
    "scaled by layer": ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    "another epsilon": ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06"),
    "no dropout at all": ({"resid_pdrop": None}, "model.dropout=null must be a number"),
    "words for numbers": ({"n_layer": "two"}, "model.n_layers=two must be a whole number"),
    "heads that do not divide": ({"n_head": 5}, "d_model=32 is not divisible by n_heads=5"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_of_something_else_is_named(tmp_path: Path, case: str) -> None:
    save_gpt2(tmp_path)
    change, words = CONFIGS[case]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError) as error:
        gptlab.load(tmp_path)
    assert words in str(error.value)


BROKEN = {
    # the file, what it holds instead (None: nothing, a number: so much less), and words of the sentence
    "no config": ("config.json", None, "holds no checkpoint"),
    "no weights": ("model.safetensors", None, "it has no model.safetensors, and only safetensors are read"),
    "no JSON": ("config.json", b"{", "config.json is no JSON object"),
    "a list": ("config.json", b"[]", "config.json is no JSON object"),
    "truncated": ("model.safetensors", -100, "model.safetensors is not a whole safetensors file"),
    "empty": ("model.safetensors", b"", "model.safetensors is not a whole safetensors file"),
    "git-lfs pointer": ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is not a whole"),
    "tokenizer of nothing": ("tokenizer.json", b'{"model": []}', "this is no tokenizer.json"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_missing_or_broken_are_named(tmp_path: Path, case: str) -> None:
    save_gpt2(tmp_path)
    name, content, words = BROKEN[case]
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:content] if content == -100 else content)
    with pytest.raises(UserError) as error:
        gptlab.load(tmp_path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pickle_and_an_index_of_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    save_gpt2(tmp_path)
    torch.save({}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        gptlab.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"it has no model-00001-of-00002\.safetensors"):
        gptlab.load(tmp_path)


def test_without_tokenizer_files_there_is_no_tokenizer(tmp_path: Path) -> None:
    save_gpt2(tmp_path)
    loaded = gptlab.load(tmp_path)
    assert loaded.tokenizer is None
    with pytest.raises(UserError, match="has no tokenizer"):
        loaded.needed_tokenizer()


@needs_gpt2_vocabulary
def test_without_tokenizer_files_gpt2s_vocabulary_size_means_gpt2s_tokenizer(tmp_path: Path) -> None:
    save_gpt2(tmp_path, vocab_size=50257, n_embd=4)
    assert isinstance(gptlab.load(tmp_path).tokenizer, GPT2Tokenizer)


def test_another_kind_of_tokenizer_is_not_taken_for_gpt2s(tmp_path: Path) -> None:
    save_gpt2(tmp_path, vocab_size=50257, n_embd=4)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nb c\n")
    assert gptlab.load(tmp_path).tokenizer is None
    (tmp_path / "merges.txt").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert gptlab.load(tmp_path).tokenizer is None


def test_any_tokenizer_file_is_read(tmp_path: Path) -> None:
    bpe = BPETokenizer.train(["the cat sat on the mat, the cat sat"], vocab_size=264)
    save_gpt2(tmp_path, vocab_size=bpe.vocab_size)
    bpe.to_tokenizers().save(str(tmp_path / "tokenizer.json"))
    loaded = gptlab.load(tmp_path)
    assert loaded.needed_tokenizer().encode("the caté<|endoftext|>") == bpe.encode("the caté<|endoftext|>")
    assert loaded.needed_tokenizer().eot == bpe.eot


def test_a_tokenizer_file_may_leave_keys_out(tmp_path: Path) -> None:
    save_gpt2(tmp_path, vocab_size=2)
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    assert gptlab.load(tmp_path).needed_tokenizer().encode("ab") == [0, 1]


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path) -> None:
    bpe = BPETokenizer.train(["the cat sat on the mat"], vocab_size=258)
    save_gpt2(tmp_path, vocab_size=300)
    bpe.to_tokenizers().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=f"its tokenizer has {bpe.vocab_size} tokens, its model 300"):
        gptlab.load(tmp_path)


@needs_gpt2_vocabulary
def test_merges_txt_is_gpt2s_tokenizer(tmp_path: Path) -> None:
    save_gpt2(tmp_path, vocab_size=50257, n_embd=4)
    cache = TEXTS / "tiktoken-cache"
    shutil.copy(cache / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee", tmp_path / "merges.txt")
    tokenizer = gptlab.load(tmp_path).needed_tokenizer()
    assert isinstance(tokenizer, GPT2Tokenizer)
    assert tokenizer.state().keys() == {"merges"}, "it needs no file but its checkpoint from now on"
    assert tokenizer.encode("Hello, I am") == [15496, 11, 314, 716]


def test_a_directory_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        gptlab.load(tmp_path)
