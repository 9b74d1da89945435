"""The model card: what a stranger wants to know before loading a model."""

import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from gptlab.checkpoint.hub import is_repository, repository_of
from gptlab.checkpoint.loaded import Loaded


def model_card(loaded: Loaded, *, title: str, address: str, has_tokenizer: bool, has_curves: bool) -> str:
    """README.md of an export, in the Hub's format: a yaml head, then Markdown.

    Args:
        loaded: the model.
        title: the heading.
        address: what a reader will load the model by, a repository or a directory.
        has_tokenizer, has_curves: whether tokenizer.json and curves.png lie beside it.
    """
    parts = [
        f"---\n{yaml.safe_dump(_head(loaded), sort_keys=False)}---\n",
        f"# {title}\n",
        f"A GPT in GPT-2's layout, {'trained and ' if loaded.training else ''}written by gptlab {version('gptlab')}.\n",
        *(["![training and validation loss and perplexity](curves.png)\n"] if has_curves else []),
        "## Model\n",
        _table(_sizes(loaded)),
        *(["## Training\n", _table(_training(loaded))] if loaded.training else []),
        "## Use\n",
        _use(loaded, address, has_tokenizer),
    ]
    return "\n".join(parts)


def _head(loaded: Loaded) -> dict[str, Any]:
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gptlab", "gpt2"],
    }
    base = _base_model(loaded)
    return head if base is None else {**head, "base_model": base}


def _base_model(loaded: Loaded) -> str | None:
    """The repository that a run started from, or that was loaded itself."""
    if not loaded.training:
        here = Path(loaded.name).expanduser().exists()
        return None if here or not is_repository(loaded.name) else repository_of(loaded.name)
    base = loaded.config.get("init_from")  # a run keeps the path of what was a directory
    return repository_of(base) if is_repository(base) else None


def _sizes(loaded: Loaded) -> dict[str, str]:
    model = loaded.model
    tokenizer = type(loaded.tokenizer).__name__ if loaded.tokenizer is not None else "none"
    return {
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "n_layers": str(len(model.trunk.blocks)),
        "n_heads": str(loaded.config["model"]["n_heads"]),
        "d_model": f"{model.head.in_features:,}",
        "context_length": f"{model.context_length:,} tokens",
        "vocab_size": f"{model.head.out_features:,}",
        "head": "tied to the token embedding" if model.is_tied else "of its own",
        "tokenizer": tokenizer,
    }


def _training(loaded: Loaded) -> dict[str, str]:
    """What it was trained on and how long; of a path only the name, for the rest is a machine's own affair."""
    config, training = loaded.config, loaded.training
    data = config.get("data") or {}
    path = data.get("path")
    rows = {
        "data": Path(path).name if path else str(data.get("_target_", "")).rpartition(".")[2],
        "steps": f"{training['steps']:,}",
        "tokens": f"{training['tokens']:,}",
        "time": f"{training['seconds'] / 60:,.1f} minutes",
        "batch_size": f"{config['batch_size']:,} sequences",
        "lr": str((config.get("optimizer") or {}).get("lr", "")),
        "dropout": str(config["model"]["dropout"]),
        "seed": str(config["seed"]),
    }
    base = config.get("init_from")
    if base is not None:
        rows["started from"] = repository_of(base) if is_repository(base) else Path(base).name
    if "val_loss" in training:
        rows["validation loss"] = f"{training['val_loss']:.4f} nats per token"
    if "val_perplexity" in training:
        rows["validation perplexity"] = f"{training['val_perplexity']:.2f}"
    if training.get("val_bits_per_byte") is not None:
        rows["validation bits per byte"] = f"{training['val_bits_per_byte']:.4f}"
    return rows


def _table(rows: dict[str, str]) -> str:
    def cell(text: str) -> str:
        return text.replace("|", r"\|").replace("\n", " ")

    return "| | |\n|---|---|\n" + "".join(f"| {name} | {cell(value)} |\n" for name, value in rows.items())


def _use(loaded: Loaded, address: str, has_tokenizer: bool) -> str:
    if not has_tokenizer:
        return (
            "```python\nfrom transformers import AutoModelForCausalLM\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({address!r})\n```\n\n"
            "There are no tokenizer files here.\n"
        )
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({address!r})\n"
        f"model = AutoModelForCausalLM.from_pretrained({address!r})\n"
        f'ids = tokenizer({loaded.example_prompt()!r}, return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0]))\n```\n\n"
        f"or `gptlab generate checkpoint={shlex.quote(address)} prompt={shlex.quote(loaded.example_prompt())}`.\n"
    )
