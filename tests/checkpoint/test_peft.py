"""Adapters in PEFT's layout: peft opens what was written, and what peft has written is read. peft is the judge."""

import json
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file, save_file

import gptlab
from gpt2s import save_gpt2, some_tokens
from gptlab.checkpoint.export import export_adapter
from gptlab.errors import UserError
from local_hub import LocalHub


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base") / "base"
    save_gpt2(directory)
    return directory


def save_adapter(base: Path, directory: Path, **settings: Any) -> torch.Tensor:
    """An adapter that peft makes, random in every matrix, and its logits."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = {"r": 4, "lora_alpha": 6, "target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**plain, **settings}))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(directory, save_embedding_layers=False)  # else with the base's own head
    return logits_of(model.eval(), some_tokens(61))


@pytest.fixture(scope="module")
def theirs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    directory = tmp_path_factory.mktemp("theirs") / "adapter"
    return directory, save_adapter(base, directory)


@pytest.fixture
def adapter(theirs: tuple[Path, torch.Tensor], tmp_path: Path) -> Path:
    return Path(shutil.copytree(theirs[0], tmp_path / "adapter"))


def change(adapter: Path, **settings: Any) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **settings}))


def test_an_adapter_of_peft_s_is_read_and_goes_out_again(
    base: Path, theirs: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM

    directory, expected = theirs
    loaded = gptlab.load(directory)
    tokens = some_tokens(61)
    assert (expected - gptlab.load(base).model(tokens)).abs().max() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(tokens), expected, rtol=1e-5, atol=1e-5)
    complaints = export_adapter(loaded, str(tmp_path / "again"))
    assert complaints == [f"its base is {base}, a place of this machine: base=<Hub id> names it for others"]
    ours, were = (load_file(place / "adapter_model.safetensors") for place in (tmp_path / "again", directory))
    assert ours.keys() == were.keys()
    assert all(torch.equal(ours[name], were[name]) for name in ours)
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(logits_of(again, tokens), expected)
    assert len({path.stat().st_mode for path in (tmp_path / "again").iterdir()}) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["c_attn"], "layers_to_transform": [1]},
        {"target_modules": ["attn.c_proj"], "lora_dropout": 0.3, "init_lora_weights": "gaussian"},
        {"target_modules": r".*\.1\.mlp\.c_.*"},
    ],
)
def test_any_choice_of_layers_is_read(base: Path, tmp_path: Path, settings: dict) -> None:
    expected = save_adapter(base, tmp_path / "adapter", **settings)
    with torch.no_grad():
        found = gptlab.load(tmp_path / "adapter").model(some_tokens(61))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_a_head_of_its_own(tmp_path: Path) -> None:
    save_gpt2(tmp_path / "untied", tie_word_embeddings=False)
    expected = save_adapter(tmp_path / "untied", tmp_path / "adapter", target_modules=["lm_head", "c_attn"])
    loaded = gptlab.load(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(some_tokens(61)), expected, rtol=1e-5, atol=1e-5)
    from peft import AutoPeftModelForCausalLM

    export_adapter(loaded, str(tmp_path / "again"))
    assert torch.equal(
        logits_of(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "again").eval(), some_tokens(61)), expected
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_rslora": True}, "use_rslora=True is more than LoRA"),
        ({"peft_type": "IA3"}, "peft_type=IA3"),
        ({"alpha_pattern": {"c_fc": 3}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"r": 5}, "is no adapter of"),
        ({"r": "four"}, "is no adapter of"),
        ({"base_model_name_or_path": None}, "names no base: name its base with base="),
        ({"base_model_name_or_path": "/nowhere"}, "its base cannot be loaded \\(/nowhere does not exist"),
    ],
)
def test_what_is_no_plain_lora_is_one_sentence(adapter: Path, settings: dict, words: str) -> None:
    change(adapter, **settings)
    with pytest.raises(UserError, match=words) as error:
        gptlab.load(adapter)
    assert "\n" not in str(error.value)


def test_tensors_that_do_not_fit_are_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    first = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
    one_more = tensors[first].clone()
    for changed, words in (
        ({**tensors, first: tensors[first] * float("nan")}, f"{first} holds nan"),
        (
            {**tensors, "base_model.model.transformer.wte.lora_embedding_A": one_more},
            "wte.lora_embedding_A",
        ),
        ({**tensors, "base_model.model.lm_head.lora_A.weight": one_more}, "head shares its weight with"),
        ({name: tensors[name] for name in tensors if name != first}, "trunk.blocks.0.attention.qkv.lora_A"),
    ):
        save_file(changed, file)
        with pytest.raises(UserError, match=words) as error:
            gptlab.load(adapter)
        assert "\n" not in str(error.value)
    file.write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read"):
        gptlab.load(adapter)
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        gptlab.load(adapter)


def test_another_base_is_refused_by_its_fingerprint_or_its_shapes(
    base: Path, theirs: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    save_gpt2(tmp_path / "wide", n_embd=64)
    with pytest.raises(UserError, match="is no adapter of"):
        gptlab.load(theirs[0], base=tmp_path / "wide")
    trained = gptlab.load(theirs[0])
    object.__setattr__(trained.adapter, "base_fingerprint", "of other weights")
    export_adapter(trained, str(tmp_path / "ours"))
    with pytest.raises(UserError, match=f"is an adapter of other weights than those of {base}"):
        gptlab.load(tmp_path / "ours")


def test_an_adapter_on_the_hub_with_its_base_at_a_revision(hub: LocalHub, base: Path, adapter: Path) -> None:
    names = [f"user/{kind}-{uuid4().hex[:8]}" for kind in ("base", "adapter")]
    commit = hub.add(names[0], base).refs["main"]
    change(adapter, base_model_name_or_path=names[0], revision=commit)
    hub.add(names[1], adapter)
    loaded = gptlab.load(names[1])
    assert loaded.adapter is not None
    assert loaded.adapter.base == f"{names[0]}@{commit}"
    assert export_adapter(loaded, str(adapter.parent / "out")) == []
    config = json.loads((adapter.parent / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (names[0], commit)
    assert f"base_model: {names[0]}\n" in (adapter.parent / "out" / "README.md").read_text()
    hub.status = 500
    assert gptlab.load(names[1]).adapter is not None, "from the cache"
