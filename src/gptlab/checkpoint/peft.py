"""LoRA adapters of a GPT-2 in PEFT's layout: adapter_config.json and adapter_model.safetensors.

PEFT names a matrix after the module of transformers' GPT2LMHeadModel that it belongs to. A and B have the same shapes
there as here, also of layers whose weight OpenAI stored as (in, out).
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptlab.checkpoint.adapted import FindBase, adapted
from gptlab.checkpoint.hub import is_repository, repository_of
from gptlab.checkpoint.hugging_face import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_json
from gptlab.checkpoint.loaded import Adapter, Loaded
from gptlab.errors import UserError
from gptlab.model import gpt2

FINGERPRINT = "base_fingerprint"
"""Our own entry in the metadata of the weights' file."""

PLAIN: dict[str, tuple[Any, ...]] = {  # what LoRA is, and values that mean the same
    "peft_type": ("LORA",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the base's weights
    **dict.fromkeys(("use_rslora", "use_qalora"), (False, None)),
    **dict.fromkeys(("rank_pattern", "alpha_pattern", "layer_replication", "alora_invocation_tokens"), ({}, [], None)),
}  # what brings tensors of its own, such as DoRA, is refused by their names


def load_directory(directory: Path, name: str, find_base: FindBase) -> Loaded:
    """The model of a directory with an adapter, merged into its base; `name` is what the user wrote.

    Raises UserError if it cannot be read, its base cannot be loaded, or the two do not fit.
    """
    try:
        theirs = read_json(directory / ADAPTER_CONFIG)
        for key, allowed in PLAIN.items():
            if theirs.get(key, allowed[0]) not in allowed:
                raise ValueError(f"{key}={theirs[key]} is more than LoRA ({key}={allowed[0]})")
        with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as file:
            tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (ValueError, OSError, SafetensorError) as error:
        raise UserError(f"{name} cannot be read: {' '.join(str(error).split())}") from None
    recorded = theirs.get("base_model_name_or_path")
    if theirs.get("revision") and is_repository(recorded):
        recorded = f"{recorded}@{theirs['revision']}"
    base = find_base(name, recorded, metadata.get(FINGERPRINT))
    try:
        trained = _to_ours(tensors, base)
        node = {
            "_target_": "gptlab.model.lora.LoRA",
            "rank": theirs.get("r", 8),
            "alpha": theirs.get("lora_alpha", 8),
            "targets": sorted({key.rpartition(".")[0] for key in trained}),
            "dropout": theirs.get("lora_dropout", 0.0),
        }
        config = {**base.config, "init_from": base.name, "adapter": node}
        model = adapted(config, base.model.vocab_size, trained, base)
    except (ValueError, RuntimeError, UserError) as error:
        raise UserError(f"{name} is no adapter of {base.name}: {' '.join(str(error).split())}") from None
    adapter = Adapter(trained, base=base.name, base_fingerprint=metadata.get(FINGERPRINT))
    return Loaded(model, base.tokenizer, config, directory, name, training={}, adapter=adapter)


def _to_ours(tensors: dict[str, Tensor], base: Loaded) -> dict[str, Tensor]:
    names = _names(base.model)
    trained = {}
    for key, tensor in tensors.items():
        full = key if key in names else key.replace("base_model.model.", f"base_model.model.{gpt2.PREFIX}", 1)
        if full not in names:
            raise ValueError(f"it has no place for the tensor {key}")
        if not tensor.isfinite().all():
            raise ValueError(f"the tensor {key} holds nan or infinity")
        trained[names[full]] = tensor
    return trained


def _names(model: Any) -> dict[str, str]:
    """Our names of all matrices that an adapter may have, by PEFT's. ValueError if the model is no GPT-2."""
    gpt2.check_layout(model)
    rows = [row for row in gpt2.table(len(model.trunk.blocks), tie_head=False) if row.ours.endswith(".weight")]
    return {
        f"base_model.model.{row.theirs.removesuffix('weight')}lora_{side}.weight": f"{row.ours[:-6]}lora_{side}"
        for row in rows
        for side in "AB"
    }


def adapter_files(loaded: Loaded) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """An adapter in PEFT's layout: tensors, the metadata of their file, and the content of adapter_config.json.

    ValueError if the layout has no place for the model, or for what was trained.
    """
    assert loaded.adapter is not None
    weights, node, expected = loaded.adapter.weights, loaded.config["adapter"], loaded.adapter.base_fingerprint
    names = {key: ours for key, ours in _names(loaded.model).items() if ours in weights}
    if len(names) < len(weights):
        raise ValueError("it has trained more than the matrices of LoRA: export it as a whole, without adapter=true")
    here, revision = Path(loaded.adapter.base).expanduser(), loaded.adapter.base.partition("@")[2]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(here.absolute()) if here.exists() else repository_of(loaded.adapter.base),
        "revision": None if here.exists() else revision or None,
        "r": node["rank"],
        "lora_alpha": node["alpha"],
        "lora_dropout": node["dropout"],
        "target_modules": sorted({key.split(".", 2)[2].rpartition(".lora_")[0] for key in names}),
        "fan_in_fan_out": True,  # of the layers whose weight OpenAI stored as (in, out)
        "inference_mode": True,
    }
    tensors = {key: weights[ours].detach().float().contiguous() for key, ours in names.items()}
    return tensors, {"format": "pt"} | ({FINGERPRINT: expected} if expected else {}), config
