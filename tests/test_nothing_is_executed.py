"""A file from anywhere is data: what would run when it is unpickled never runs, and no code of ours could let it."""

import ast
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import ROOT, Result


class Malicious:
    """Runs a program where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch executed",)


def as_zip(path: Path) -> None:
    torch.save({"gptlab": {}, "state_dict": {"model.head.weight": Malicious()}}, path)


def as_legacy(path: Path) -> None:
    torch.save(Malicious(), path, _use_new_zipfile_serialization=False)


def as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious()))


@pytest.mark.parametrize("write", [as_zip, as_legacy, as_pickle])
def test_a_malicious_pickle_is_not_executed(
    gptlab: Callable[..., Result], workplace: Path, tiny_run: Path, write: Callable[[Path], None]
) -> None:
    (workplace / "run" / "checkpoints").mkdir(parents=True)
    (workplace / "run" / "config.yaml").write_bytes((tiny_run / "config.yaml").read_bytes())
    (workplace / "theirs").mkdir()
    (workplace / "theirs" / "config.json").write_text('{"model_type": "gpt2"}')
    write(workplace / "run" / "checkpoints" / "last.ckpt")
    write(workplace / "theirs" / "model.safetensors")
    for command in (
        ["generate", "prompt=a", "checkpoint=run"],
        ["generate", "prompt=a", "checkpoint=theirs"],
        ["generate", "prompt=a", "checkpoint=theirs/model.safetensors"],
        ["train", "resume=run"],
    ):
        result = gptlab(*command)
        assert result.status == 2
        assert result.err.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in result.err
    assert not list(workplace.rglob("executed"))


def test_a_rerun_of_hydras_is_refused_for_its_pickle(gptlab: Callable[..., Result], workplace: Path) -> None:
    (workplace / "config.pickle").write_bytes(pickle.dumps(Malicious()))
    result = gptlab("train", "--experimental-rerun", "config.pickle")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "--experimental-rerun is no flag" in result.err
    assert not (workplace / "executed").exists()


UNPICKLING = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
MUST_SAY = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
RESTRICTED = {"Unpickler", "UnpicklingError"}
"""Of pickle: for subclasses that refuse every class and function that a file names."""
NEVER = {"Unpickler", "eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "OmegaConf.unsafe_load"}


def offences(code: str) -> list[str]:
    """What in a piece of code could execute what a file says."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} <= RESTRICTED:
            continue
        if isinstance(node, ast.ClassDef) and "Unpickler" in map(ast.unparse, node.bases):
            bodies = {part.name: part.body for part in node.body if isinstance(part, ast.FunctionDef)}
            found += [] if [type(line) for line in bodies.get("find_class", [])] == [ast.Raise] else [node.name]
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [module for module in modules if module.partition(".")[0] in UNPICKLING]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            says = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            argument, value = MUST_SAY.get(name, ("", None))
            if name in NEVER or (name in MUST_SAY and says.get(argument) is not value):
                found.append(name)
    return found


def test_no_code_of_ours_executes_what_a_file_says() -> None:
    lax = "class Lax(Unpickler):\n    def find_class(self, module, name):\n        return __import__(module)"
    calls = ("Unpickler(file).load()", "eval(x)", "yaml.load(x)", "torch.load(x, weights_only=False)", "np.load(x)")
    for code in ("import pickle", "from pickle import loads", lax, *calls):
        assert offences(code), "the search finds what it looks for"
    for file in (ROOT / "src").rglob("*.py"):
        assert offences(file.read_text(encoding="utf-8")) == [], file
