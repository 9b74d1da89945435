"""What a checkpoint holds besides Lightning's part, and how a run resumes from it."""

from typing import TYPE_CHECKING, Any

from gptlab.training.stepping import start_at

if TYPE_CHECKING:
    from gptlab.training.module import TrainingModule


def save(module: "TrainingModule", checkpoint: dict[str, Any]) -> None:
    """Complete a checkpoint. Lightning's loop counters are left out: they follow from the number of steps.

    A run with an adapter saves what trains, and nothing else of the model.
    """
    checkpoint.pop("loops", None)
    if module.base_fingerprint is not None:
        for name in _frozen(module):
            checkpoint["state_dict"].pop(name, None)  # a rank of a sharded run has none
    data = module.data
    parts = {name: getattr(getattr(data, name), "reference", None) for name in ("train", "val", "test")}
    checkpoint["gptlab"] = {
        "config": module.config,
        "tokenizer": data.tokenizer.state(),
        "vocab_size": data.tokenizer.vocab_size,
        "text_fingerprint": data.fingerprint,
        "manifest": data.manifest,
        "prompt": data.prompt,
        "tokens": module.n_tokens,
        "inputs": module.n_inputs,
        "recent": [list(pair) for pair in module.steps.recent],
        "unlogged": module.steps.unlogged,
        "clock": module.clock.state(),
        "metrics": dict(module.metrics),
        "n_skipped": module.guard.n_skipped,
        "validation_pending": module.validation_pending,
        "base_fingerprint": module.base_fingerprint,
        "references": {name: measured for name, measured in parts.items() if measured is not None},
    }


def load(module: "TrainingModule", checkpoint: dict[str, Any]) -> None:
    """Continue from a checkpoint; weights that it does not hold stay as they are."""
    ours = checkpoint["gptlab"]
    if module.base_fingerprint is not None:
        own = module.state_dict()
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **{name: own[name] for name in _frozen(module)}}
    module.n_tokens, module.n_inputs = ours["tokens"], ours.get("inputs", ours["tokens"])
    module.steps.load(ours["recent"], ours.get("unlogged", []))  # 0.1.0 logged each step
    module.clock.load(ours["clock"])
    module.metrics.update(ours["metrics"])
    module.guard.n_skipped = ours["n_skipped"]
    for name, measured in ours.get("references", {}).items():
        getattr(module.data, name).reference = measured
    start_at(module.trainer, checkpoint["global_step"])
    pending = ours.get("validation_pending", ours.get("owes_validation"))  # its name in 0.1.0
    module.validated_step = -1 if pending else checkpoint["global_step"]


def _frozen(module: "TrainingModule") -> list[str]:
    return [name for name, weight in module.named_parameters(remove_duplicate=False) if not weight.requires_grad]
