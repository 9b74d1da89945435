"""How configurations and checkpoints of earlier versions become those of this version."""

import inspect
from typing import Any

from hydra.utils import get_object

from gptlab.build import Config

REMOVED = object()

CHANGES: dict[str, dict[str, Any]] = {
    "gptlab.model.GPT": {
        "norm": {"_target_": "gptlab.model.norm.layernorm.LayerNorm", "_partial_": True},
        "feed_forward": {"_target_": "gptlab.model.feed_forward.gelu.GELUFeedForward", "_partial_": True},
        "positions": {"_target_": "gptlab.model.positions.learned.LearnedPositions", "_partial_": True},
    },
    "gptlab.training.schedules.constant": {"total_steps": "${max_steps}"},
}
"""By the `_target_` of a node in an old configuration: arguments that it lacks, with the value that means what the old
version did (`${name}` is a setting at the root); `_target_`, if it has another name now; REMOVED arguments."""

STATE = {"validation_pending": "owes_validation"}
"""Entries of checkpoint["gptlab"]: the name now, and the old one."""


def upgraded(config: Config) -> Config:
    """A configuration of any version, as this version writes it."""
    return {name: _upgraded(node, config) for name, node in config.items()}


def upgraded_state(state: dict[str, Any]) -> dict[str, Any]:
    """The content of checkpoint["gptlab"] of any version, as this version writes it."""
    renamed = {new: state[old] for new, old in STATE.items() if old in state}
    return {**renamed, **state, "config": upgraded(state["config"])}


def _upgraded(node: Any, root: Config) -> Any:
    if isinstance(node, list):
        return [_upgraded(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: _upgraded(value, root) for name, value in node.items()}
    old = str(node.get("_target_"))
    change = CHANGES.get(old, {})
    new = change.get("_target_", old)
    for name, value in change.items():
        if value is REMOVED:
            node.pop(name, None)
        elif name not in node and name in inspect.signature(get_object(new)).parameters:
            is_setting = isinstance(value, str) and value.startswith("${")
            node[name] = root[value[2:-1]] if is_setting else value
    return node if new == old else _upgraded({**node, "_target_": new}, root)
