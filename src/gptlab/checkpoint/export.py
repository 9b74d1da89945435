"""A model as a directory that transformers, and every program that reads its format, opens."""

import json
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gptlab.checkpoint import peft
from gptlab.checkpoint.hub import is_repository, repository_of
from gptlab.checkpoint.hugging_face import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    TEMPLATE_INPUT,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
)
from gptlab.checkpoint.loaded import Loaded
from gptlab.errors import UserError
from gptlab.files import absolute, as_yaml, made_whole
from gptlab.model import gpt2

GENERATION_CONFIG, CARD, CURVES = "generation_config.json", "README.md", "curves.png"
USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({address!r})
model = AutoModelForCausalLM.from_pretrained({address!r})
ids = tokenizer({prompt!r}, return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0]))
```

or `{command}`.
"""
USE_CLASSIFIER = "`{command}`, or `pipeline('text-classification', {address!r})` of transformers.\n"


def check_free(to: str) -> Path:
    """The directory to make. Raises UserError if something is there already."""
    directory = absolute(to)
    if directory.is_symlink() or directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise UserError(f"to={to} exists already: name a new directory")
    return directory


def export(loaded: Loaded, to: str, *, address: str) -> list[str]:
    """Write a model as a Hugging Face directory in GPT-2's layout, whole or not at all (UserError).

    The model card names the repository or directory `address`. Returns sentences about what could not be exported.
    """
    directory = check_free(to)
    try:
        tensors = gpt2.write_weights(loaded.model)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"{loaded.name} cannot be exported: {error}") from None
    tokenizer, complaints = _tokenizer_files(loaded)
    eot = loaded.tokenizer.eot if loaded.tokenizer is not None else None
    curves = loaded.path.parent.parent / CURVES
    has_curves = loaded.path.parent.name == "checkpoints" and curves.is_file()
    prompt = loaded.example_prompt() if tokenizer else None
    files: dict[str, Any] = {
        CONFIG: gpt2.config(loaded.model, eot=eot),  # type: ignore[arg-type]
        GENERATION_CONFIG: {"bos_token_id": eot, "eos_token_id": eot, "pad_token_id": eot},
        **tokenizer,
        CARD: _card(loaded, directory.name, address, prompt, has_curves),
    }
    with made_whole(directory, to) as partial:
        _write(partial, WEIGHTS, tensors, {"format": "pt"}, files)
        if has_curves:
            shutil.copyfile(curves, partial / CURVES)
    return complaints


def export_adapter(loaded: Loaded, to: str) -> list[str]:
    """Write the adapter alone, as a directory of PEFT's, whole or not at all (UserError).

    Returns sentences about what it lacks elsewhere.
    """
    directory = check_free(to)
    try:
        tensors, metadata, config = peft.adapter_files(loaded)
    except ValueError as error:
        raise UserError(f"{loaded.name} cannot be exported: {error}") from None
    base = config["base_model_name_or_path"]
    head = as_yaml({"library_name": "peft", "base_model": Path(base).name if Path(base).exists() else base})
    card = f"---\n{head}---\n\n# {directory.name}\n\n## Training\n\n{_table(_training(loaded))}"
    with made_whole(directory, to) as partial:
        files = {ADAPTER_CONFIG: config, **_tokenizer_files(loaded)[0], CARD: card}
        _write(partial, ADAPTER_WEIGHTS, tensors, metadata, files)
    if not Path(base).exists():
        return []
    if Path(base, CONFIG).is_file():
        return [f"its base is {base}, a place of this machine: base=<Hub id> names it for others"]
    return [f"peft cannot open its base, {base}: export that first, and name its directory with base="]


def _write(directory: Path, weights: str, tensors: dict[str, Tensor], metadata: dict[str, str], files: Any) -> None:
    """Tensors, and further files by their names: text, or what becomes JSON."""
    save_file(tensors, directory / weights, metadata=metadata)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        (directory / name).write_text(text, encoding="utf-8", errors="replace")
    shutil.copymode(directory / name, directory / weights)  # safetensors makes files that only their owner can read


def _tokenizer_files(loaded: Loaded) -> tuple[dict[str, Any], list[str]]:
    """Contents of tokenizer files by name, and what to tell the user if there are none."""
    if loaded.tokenizer is None:
        return {}, [f"{loaded.name} has no tokenizer, so the export has none"]
    backend = loaded.tokenizer.to_tokenizers()
    if backend is None:
        kind = type(loaded.tokenizer).__name__
        return {}, [f"the vocabulary of this {kind} cannot be expressed as a tokenizer.json, so the export has none"]
    eot = loaded.tokenizer.eot
    unk = getattr(loaded.tokenizer, "unk", None)
    special = {"bos_token": eot, "eos_token": eot, "pad_token": eot, "unk_token": unk}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": loaded.model.context_length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # text that spells a special token is text, as it is here
        **{name: backend.id_to_token(id_) for name, id_ in special.items() if id_ is not None},
    }
    if loaded.template is not None:
        settings |= {"chat_template": loaded.template.chat_template, TEMPLATE_INPUT: loaded.template.input}
    return {TOKENIZER: backend.to_str(), TOKENIZER_CONFIG: settings}, []


def _card(loaded: Loaded, title: str, address: str, prompt: str | None, has_curves: bool) -> str:
    """README.md: a model card, with the metadata that the Hub reads at its head."""
    from huggingface_hub import ModelCard, ModelCardData

    base: Any = loaded.config.get("init_from") if loaded.training else loaded.name
    head = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation" if loaded.model.generates else "text-classification",
        tags=["gptlab", "gpt2"],
        base_model=repository_of(base) if is_repository(base) and not Path(base).exists() else None,
    )
    task, verb, key, form = "CausalLM", "generate", "prompt", USE
    if not loaded.model.generates:
        task, verb, key, form = "SequenceClassification", "classify", "text", USE_CLASSIFIER
    use = f"There are no tokenizer files here; `AutoModelFor{task}` of transformers loads the model.\n"
    if prompt is not None:
        command = f"gptlab {verb} checkpoint={shlex.quote(address)} {key}={shlex.quote(prompt)}"
        if loaded.template is not None:
            command, prompt = f"{command} interactive=true", loaded.template.turn(prompt, is_first=True)
        use = form.format(address=address, prompt=prompt, command=command)
    n_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    tokenizer = type(loaded.tokenizer).__name__ if loaded.tokenizer is not None else None
    parts = [
        f"---\n{head.to_yaml()}\n---\n\n# {title}\n",
        f"A GPT in GPT-2's layout, {'trained and ' if loaded.training else ''}written by gptlab {version('gptlab')}.\n",
        "![training and validation loss](curves.png)\n" if has_curves else "",
        f"## Model\n\n{_table({'parameters': n_parameters, **loaded.model.sizes, 'tokenizer': tokenizer})}",
        f"## Training\n\n{_table(_training(loaded))}" if loaded.training else "",
        f"## Use\n\n{use}",
    ]
    return str(ModelCard("\n".join(filter(None, parts))))


def _training(loaded: Loaded) -> dict[str, Any]:
    """What it was trained on, how, and with which result; of paths only the names."""
    config = loaded.config
    data, start = config.get("data") or {}, config.get("init_from")
    return {
        "data": Path(data["path"]).name if data.get("path") else str(data.get("_target_")).rpartition(".")[2],
        "started from": Path(start).name if start is not None and Path(start).is_absolute() else start,
        "lr": (config.get("optimizer") or {}).get("lr"),
        "dropout": config["model"].get("dropout"),
        "batch_size": config.get("batch_size"),
        "seed": str(config.get("seed")),
        **loaded.training,
    }


def _table(rows: dict[str, Any]) -> str:
    forms = {int: "{:,}", float: "{:.5g}"}
    cells = {name: forms.get(type(value), "{}").format(value) for name, value in rows.items() if value is not None}
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {cell} |\n" for name, cell in cells.items())
