"""Every yaml composes, resolves, and fits the signature of what it names."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from conftest import CONF, choices
from gptlab import build
from gptlab.cli.settings import check, settings

GROUPS = sorted(str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir() and path != CONF / "hydra")
CHOICES = [(group, name) for group in GROUPS for name in choices(group)]


def composed(*overrides: str) -> build.Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[*overrides, "run_dir=somewhere"])
        if OmegaConf.is_missing(config.data, "path"):
            config.data.path = "somewhere.txt"
        return build.resolve(config)


def targets(node: Any, key: str = "") -> Iterator[tuple[str, dict]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}" if key else name)


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=[f"{group}={name}" for group, name in CHOICES])
def test_every_choice_composes_and_binds(group: str, name: str) -> None:
    needs = ["data=instructions"] if group == "data/template" else []
    config = composed(*needs, f"{group}={name}")
    for key, node in targets(config):
        target = get_object(node["_target_"])
        arguments = {name: value for name, value in node.items() if not name.startswith("_")}
        if key == "tokenizer":
            inspect.signature(target.train).bind([], **arguments)
        else:
            inspect.signature(target).bind_partial(**arguments)


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_builds(name: str) -> None:
    config = composed(f"experiment={name}")
    max_steps = settings(config).max_steps
    with torch.device("meta"):
        model = build.model(config, 50257)
        assert build.optimizer(config)(model).param_groups
    assert 0 <= build.part(config, "schedule")(max_steps) <= 1
    assert build.part(config, "objective").best_metric.startswith("val/")


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (20, 1), (660, 33)])
def test_a_run_of_any_length_passes_with_a_warm_up_of_a_twentieth(steps: int, warmup: int) -> None:
    config = composed(f"max_steps={steps}")
    assert check(config).max_steps == steps
    factors = [build.part(config, "schedule")(step) for step in range(steps)]
    assert factors[:warmup] == [(step + 1) / (warmup + 1) for step in range(warmup)]
    assert factors[warmup] == 1


def test_the_verdict_s_model_is_the_textbook_s() -> None:
    with torch.device("meta"):
        model = build.model(composed("experiment=verdict"), 50257)
    assert sum(parameter.numel() for parameter in model.parameters()) == 162_419_712  # its chapter 5, without qkv bias


def test_an_override_beats_an_experiment_and_that_beats_the_defaults() -> None:
    assert composed("experiment=verdict")["model"]["context_length"] == 256
    assert composed("experiment=verdict", "context_length=32")["model"]["context_length"] == 32


def test_groups_interpolate_root_scalars_or_values_of_their_own_node() -> None:
    roots = set(composed()) - {group.partition("/")[0] for group in GROUPS}
    for path in CONF.rglob("*.yaml"):
        if path.parent != CONF and path.parent.parent != CONF / "hydra":  # Hydra's node is one of its own
            for name in re.findall(r"\$\{([^}]+)\}", path.read_text()):
                assert name in roots or re.fullmatch(r"\.\w+", name), f"{path}: {name}"
