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
    tokens = some_tokens(ours.head.out_features)
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
    assert torch.equal(loaded.model.trunk.token_embedding.weight, theirs.transformer.wte.weight.float())


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
    "one tensor under two names": (
        lambda t: {**t, "wte.weight": torch.zeros(61, 32)},
        "wte.weight is there twice, with and without transformer. in front",
    ),
    "a head for something else": (
        lambda t: {**t, "score.weight": torch.zeros(2, 32)},
        "the tensor score.weight is none",
    ),
    "not a number": (
        lambda t: {**t, C_ATTN: torch.full((32, 96), torch.nan)},
        f"the tensor {C_ATTN} holds nan or infinity",
    ),
    "integers": (lambda t: {**t, C_ATTN: t[C_ATTN].to(torch.int8)}, f"{C_ATTN} holds torch.int8"),
    "another head than the config says": (
        lambda t: {**t, "lm_head.weight": torch.ones(61, 32)},
        "lm_head.weight is not the token embedding: tie_word_embeddings must be false",
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
    "no dropout at all": ({"resid_pdrop": None}, "resid_pdrop=None must be a number"),
    "a class that is none": ({"model_type": None, "architectures": {"a": 1}}, "its architecture is unnamed"),
    "a width beyond any machine": ({"n_embd": 2**62}, "its sizes are beyond any machine"),
    "layers without end": ({"n_layer": 10**12}, "it has 28 tensors for 1000000000000 layers"),
    "no layers": ({"n_layer": 0}, "n_layers=0 must be at least 1"),
    "words for numbers": ({"n_layer": "two"}, "n_layer='two' must be a whole number"),
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


def test_files_that_are_missing_truncated_or_pickles_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    save_gpt2(whole)

    def refused(change: object) -> str:
        directory = tmp_path / "broken"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(whole, directory)
        change(directory)  # type: ignore[operator]
        with pytest.raises(UserError) as error:
            gptlab.load(directory)
        return str(error.value)

    def truncate(directory: Path) -> None:
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    def only_a_pickle(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        torch.save({}, directory / "pytorch_model.bin")

    def disguised_pickle(directory: Path) -> None:
        torch.save({}, directory / "model.safetensors")

    def index_of_elsewhere(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        index = {"weight_map": {"transformer.wte.weight": "../whole/model.safetensors"}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    def index_of_nothing(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        index = {"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "has no config.json" in refused(lambda directory: (directory / "config.json").unlink())
    assert "has no model.safetensors" in refused(lambda directory: (directory / "model.safetensors").unlink())
    assert "config.json is damaged" in refused(lambda directory: (directory / "config.json").write_text("{"))
    assert "model.safetensors is truncated or damaged" in refused(truncate)
    assert "model.safetensors is truncated" in refused(
        lambda directory: (directory / "model.safetensors").write_text("")
    )
    assert "has pytorch_model.bin and no model.safetensors: a pickle can run any program" in refused(only_a_pickle)
    assert "model.safetensors is a pickle under another name" in refused(disguised_pickle)

    def tokenizer_of_nothing(directory: Path) -> None:
        (directory / "tokenizer.json").write_text('{"model": []}')

    def vocabulary_without_its_bytes(directory: Path) -> None:
        (directory / "vocab.json").write_text('{"a": 0}')
        (directory / "merges.txt").write_text("#version: 0.2\nb c\n")

    def pointer(directory: Path) -> None:
        (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")

    assert "only a pointer to the file: `git lfs pull` fetches it" in refused(pointer)
    assert "config.json is damaged" in refused(
        lambda directory: (directory / "config.json").write_text('{"a":' * 100_000)
    )

    def added_in_the_wrong_place(directory: Path) -> None:
        tokenizer = BPETokenizer.train(["a"], vocab_size=257)
        tokenizer.to_tokenizers().model.save(str(directory))
        (directory / "added_tokens.json").write_text('{"<pad>": 900}')

    assert "its tokenizer: added_tokens.json does not go on where vocab.json ends" in refused(added_in_the_wrong_place)
    assert "its tokenizer: this is no tokenizer.json" in refused(tokenizer_of_nothing)
    assert "its tokenizer: (vocab.json, merges.txt) does not fit together" in refused(vocabulary_without_its_bytes)
    assert "lies elsewhere" in refused(index_of_elsewhere)
    assert "has no model-00001-of-00002.safetensors" in refused(index_of_nothing)


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


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("spiece.model", "x"),
        ("vocab.txt", "a\nb"),
        ("vocab.json", "{}"),
        ("tokenizer_config.json", '{"tokenizer_class": "BertTokenizer"}'),
    ],
)
def test_another_kind_of_tokenizer_is_not_taken_for_gpt2s(tmp_path: Path, file: str, content: str) -> None:
    save_gpt2(tmp_path, vocab_size=50257, n_embd=4)
    (tmp_path / file).write_text(content)
    assert gptlab.load(tmp_path).tokenizer is None


def test_a_prefix_space_is_heeded(tmp_path: Path) -> None:
    bpe = BPETokenizer.train(["the cat sat on the mat, the cat sat"], vocab_size=264)
    save_gpt2(tmp_path, vocab_size=bpe.vocab_size)
    bpe.to_tokenizers().model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert gptlab.load(tmp_path).needed_tokenizer().encode("the cat") == bpe.encode(" the cat")


def test_any_tokenizer_file_is_read(tmp_path: Path) -> None:
    bpe = BPETokenizer.train(["the cat sat on the mat, the cat sat"], vocab_size=264)
    save_gpt2(tmp_path, vocab_size=bpe.vocab_size)
    bpe.to_tokenizers().save(str(tmp_path / "tokenizer.json"))
    loaded = gptlab.load(tmp_path)
    assert loaded.needed_tokenizer().encode("the caté<|endoftext|>") == bpe.encode("the caté<|endoftext|>")
    assert loaded.needed_tokenizer().eot == bpe.eot


def test_the_two_old_files_of_any_vocabulary_are_read(tmp_path: Path) -> None:
    bpe = BPETokenizer.train(["the cat sat on the mat, the cat sat"], vocab_size=264)
    save_gpt2(tmp_path, vocab_size=bpe.vocab_size)
    bpe.to_tokenizers().model.save(str(tmp_path))
    loaded = gptlab.load(tmp_path)
    assert loaded.needed_tokenizer().encode("the cat sat") == bpe.encode("the cat sat")
    assert loaded.needed_tokenizer().eot == bpe.eot


def test_the_two_old_files_with_control_tokens_of_their_own_are_read(tmp_path: Path) -> None:
    bpe = BPETokenizer.train(["the cat sat on the mat, the cat sat"], vocab_size=264)
    n_tokens = bpe.vocab_size - 1  # all but <|endoftext|>
    save_gpt2(tmp_path, vocab_size=n_tokens + 2)
    bpe.to_tokenizers().model.save(str(tmp_path))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"</s>": n_tokens, "<pad>": n_tokens + 1}))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    tokenizer = gptlab.load(tmp_path).needed_tokenizer()
    assert tokenizer.eot == n_tokens
    assert tokenizer.encode("the cat</s>")[:2] == bpe.encode("the cat")[:2]
    assert n_tokens not in tokenizer.encode("the cat</s>")


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
def test_vocab_json_and_merges_txt_are_gpt2s_tokenizer(tmp_path: Path) -> None:
    save_gpt2(tmp_path, vocab_size=50257, n_embd=4)
    cache = TEXTS / "tiktoken-cache"
    shutil.copy(cache / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6", tmp_path / "vocab.json")
    shutil.copy(cache / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee", tmp_path / "merges.txt")
    tokenizer = gptlab.load(tmp_path).needed_tokenizer()
    assert isinstance(tokenizer, GPT2Tokenizer)
    assert tokenizer.state().keys() == {"merges"}, "it needs no file but its checkpoint from now on"
    assert tokenizer.encode("Hello, I am") == [15496, 11, 314, 716]


def test_weights_alone_and_directories_of_nothing_are_refused(tmp_path: Path) -> None:
    save_gpt2(tmp_path / "model")
    with pytest.raises(UserError, match="holds weights alone: name its directory"):
        gptlab.load(tmp_path / "model" / "model.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        gptlab.load(tmp_path / "empty")
