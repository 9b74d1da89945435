"""The Hub: the real client against a real server on this machine."""

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from huggingface_hub import hf_hub_download

import gptlab
from conftest import TEXTS, needs_gpt2_vocabulary
from gpt2s import save_gpt2
from gptlab.checkpoint.hub import check_can_push, is_repository, repository_of
from gptlab.errors import UserError
from gptlab.tokenizer import gpt2
from local_hub import LocalHub

DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    save_gpt2(directory)
    return directory


@pytest.fixture(scope="module")
def other_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer."""
    directory = tmp_path_factory.mktemp("other")
    save_gpt2(directory, n_layer=1)
    return directory


@pytest.fixture
def name() -> str:
    """No other test's: all tests share the client's cache."""
    return f"user/model-{uuid4().hex[:8]}"


def weights_of(source: str | Path) -> torch.Tensor:
    return gptlab.load(source).model.token_vectors


def n_layers(source: str) -> int:
    return gptlab.load(source).model.sizes["n_layers"]


def test_names_of_repositories() -> None:
    assert is_repository("user/model.v2@refs/pr/1")
    for text in ("", "a/b/c", "/a/b", "./a", "a b", "a@", "run/../x", Path("user/model")):
        assert not is_repository(text)
    assert repository_of("gpt2-xl@main") == "openai-community/gpt2-xl"


def test_a_download_is_the_same_model_and_stays_in_the_cache(hub: LocalHub, files: Path, name: str) -> None:
    hub.add(name, files).files()["pytorch_model.bin"] = b"not wanted"  # type: ignore[index]
    assert torch.equal(weights_of(name), weights_of(files))
    gptlab.load(name)
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: LocalHub, files: Path, other_files: Path, name: str) -> None:
    old = hub.add(name, files).refs["main"]
    assert n_layers(name) == 2
    hub.add(name, files, "v1")
    hub.add(name, other_files)
    assert (n_layers(name), n_layers(f"{name}@v1"), n_layers(f"{name}@{old}")) == (1, 2, 2)


def test_a_download_that_was_cut_off_continues_later(hub: LocalHub, files: Path, name: str) -> None:
    """The weights come last, so a cache without them is not taken for the model."""
    hub.add(name, files)
    hf_hub_download(name, "config.json")
    hub.status = 503
    with pytest.raises(UserError, match=f"{name} is no file or directory here, and cannot be loaded from .*503"):
        gptlab.load(name)
    hub.status = None
    assert torch.equal(weights_of(name), weights_of(files))
    hub.status = 503
    assert torch.equal(weights_of(name), weights_of(files)), "a Hub in trouble, and a cache that has it"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "reason"), [({"HF_HUB_OFFLINE": "1"}, "offline mode"), ({"HF_ENDPOINT": DEAD}, "refused")]
)
def test_offline_finds_what_is_cached_and_says_what_is_not(
    hub: LocalHub, files: Path, name: str, environment: dict[str, str], reason: str
) -> None:
    hub.add(name, files)
    gptlab.load(name)
    hub.requests.clear()
    code = f"""
import time, gptlab
load, began = gptlab.load, time.monotonic()
load({name!r})
print(time.monotonic() - began)
load("user/never-seen")
"""
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert "UserError: user/never-seen is no file or directory here" in run.stderr
    assert reason in run.stderr
    assert float(run.stdout) < 10
    assert hub.requests == []


def test_what_does_not_exist_is_named(hub: LocalHub, files: Path, name: str) -> None:
    config = {"config.json": (files / "config.json").read_bytes()}
    hub.add(f"{name}-1", files)
    hub.add(f"{name}-2", {"pytorch_model.bin": b"a pickle"})
    hub.add(f"{name}-3", {**config, "pytorch_model.bin": b"a pickle"})
    for source, words in {
        name: rf"{name} is no file or directory here, .*{hub.address}/{name}: it does not exist",
        f"{name}-1@v9": rf"{hub.address}/{name}-1: it has no revision v9",
        f"{name}-2": r"it has no config\.json",
        f"{name}-3": r"it has no model\.safetensors, and only safetensors are read",
    }.items():
        with pytest.raises(UserError, match=words):
            gptlab.load(source)
    assert hub.downloads() == ["config.json"]


def test_private_and_gated_repositories_say_how_to_open_them(
    hub: LocalHub, files: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(name, files).token = "hf_secret"
    with pytest.raises(UserError, match="is private and needs `hf auth login`"):
        gptlab.load(name)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert torch.equal(weights_of(name), weights_of(files))
    hub.add(f"{name}-gated", files).gated = True
    with pytest.raises(UserError, match=f"{name}-gated: agree to its terms there"):
        gptlab.load(f"{name}-gated")


def test_a_directory_here_goes_before_a_repository(
    hub: LocalHub, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").symlink_to(files)
    assert gptlab.load("gpt2").path == Path("gpt2")
    assert hub.requests == []


def test_a_push_needs_a_name_and_a_login(name: str) -> None:
    for wrong in ("a/b/c", "user/model@v1", "gpt2"):
        with pytest.raises(UserError, match="is not a repository's name"):
            check_can_push(wrong)
    with pytest.raises(UserError, match="needs a login"):
        check_can_push(name)


@needs_gpt2_vocabulary
def test_gpt2s_vocabulary_comes_from_the_hub_if_tiktokens_cache_lacks_it(
    hub: LocalHub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpt2, "HUB_REPOSITORY", name)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="GPT-2's vocabulary is neither in tiktoken's cache nor in the Hub's"):
        gpt2.GPT2Tokenizer()
    hub.add(name, {"merges.txt": (TEXTS / "tiktoken-cache" / gpt2.TIKTOKENS_FILE).read_bytes()})
    assert gpt2.GPT2Tokenizer().encode("Hello, I am") == [15496, 11, 314, 716]
    hub.forget()
    assert gpt2.GPT2Tokenizer().state() == {}, "from the Hub's cache"
