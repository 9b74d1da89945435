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
from conftest import ROOT
from gpt2s import save_gpt2
from gptlab.checkpoint.hub import check_can_push, is_repository, push, repository_of
from gptlab.errors import UserError
from local_hub import LocalHub

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    save_gpt2(tmp_path / "files")
    return tmp_path / "files"


@pytest.fixture
def name() -> str:
    """No other test's: all tests share the client's cache."""
    return f"user/model-{uuid4().hex[:8]}"


def weights_of(source: str | Path) -> torch.Tensor:
    return gptlab.load(source).model.token_vectors


def in_a_process(source: str, **environment: str) -> tuple[float, str]:
    """Seconds that a load took, and what it said."""
    code = f"""
import time, gptlab
load = gptlab.load
began = time.monotonic()
try:
    said = load({source!r}).name + " loaded"
except Exception as error:
    said = f"{{type(error).__name__}}: {{error}}"
print(time.monotonic() - began, said)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    seconds, _, said = run.stdout.partition(" ")
    return float(seconds), said.strip()


def test_names_of_repositories() -> None:
    assert is_repository("gpt2")
    assert is_repository("user/model.v2@refs/pr/1")
    for text in ("", "a/b/c", "/a/b", "~/a", "./a", "a b", "a@", "run/../x", Path("user/model")):
        assert not is_repository(text)
    assert repository_of("gpt2-xl@main") == "openai-community/gpt2-xl"
    assert repository_of("distilgpt2") == "distilgpt2"


def test_a_download_is_the_same_model(hub: LocalHub, files: Path, name: str) -> None:
    hub.add(name, {**{path.name: path.read_bytes() for path in files.iterdir()}, "pytorch_model.bin": b"not wanted"})
    assert torch.equal(weights_of(name), weights_of(files))
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]
    hub.requests.clear()
    gptlab.load(name)
    assert hub.downloads() == [], "all of it is in the cache"


def test_gpt2_is_short_for_openais(hub: LocalHub, files: Path) -> None:
    hub.add("openai-community/gpt2-large", files)
    assert gptlab.load("gpt2-large").name == "gpt2-large"


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: LocalHub, tmp_path: Path, files: Path, name: str) -> None:
    old = hub.add(name, files, "v1").refs["v1"]
    save_gpt2(tmp_path / "new", n_layer=1)
    hub.add(name, tmp_path / "new", "main")
    assert gptlab.load(name).model.sizes["n_layers"] == 1
    assert gptlab.load(f"{name}@v1").model.sizes["n_layers"] == 2
    assert gptlab.load(f"{name}@{old}").model.sizes["n_layers"] == 2


def test_a_new_commit_is_noticed(hub: LocalHub, tmp_path: Path, files: Path, name: str) -> None:
    hub.add(name, files)
    gptlab.load(name)
    save_gpt2(tmp_path / "new", n_layer=1)
    hub.add(name, tmp_path / "new")
    assert gptlab.load(name).model.sizes["n_layers"] == 1


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
def test_offline_finds_what_is_cached_and_says_what_is_not(hub: LocalHub, files: Path, name: str) -> None:
    hub.add(name, files)
    gptlab.load(name)
    hub.requests.clear()
    for environment, reason in (({"HF_HUB_OFFLINE": "1"}, "offline mode"), ({"HF_ENDPOINT": DEAD}, "refused")):
        seconds, said = in_a_process(name, **environment)
        assert said == f"{name} loaded"
        assert seconds < 10
        seconds, said = in_a_process("user/never-seen", **environment)
        assert said.startswith("UserError: user/never-seen is no file or directory here")
        assert reason in said
        assert seconds < 10
    assert hub.requests == []


def test_what_does_not_exist_is_named(hub: LocalHub, files: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=f"{name} is no file or directory here, .*{hub.address}/{name}: it does not exi"
    ):
        gptlab.load(name)
    hub.add(name, files)
    with pytest.raises(UserError, match=f"{hub.address}/{name}: it has no revision v9"):
        gptlab.load(f"{name}@v9")
    hub.add(f"{name}-2", {"pytorch_model.bin": b"a pickle"})
    with pytest.raises(UserError, match=r"it has no config\.json"):
        gptlab.load(f"{name}-2")
    hub.add(f"{name}-3", {"config.json": (files / "config.json").read_bytes(), "pytorch_model.bin": b"a pickle"})
    with pytest.raises(UserError, match=r"it has no model\.safetensors, and only safetensors are read"):
        gptlab.load(f"{name}-3")
    assert hub.downloads() == ["config.json"]


def test_a_private_repository_opens_with_the_users_token(
    hub: LocalHub, files: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(name, files).token = "hf_secret"
    with pytest.raises(UserError, match="is private and needs `hf auth login`"):
        gptlab.load(name)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert torch.equal(weights_of(name), weights_of(files))


def test_a_gated_repository_says_where_to_agree(hub: LocalHub, files: Path, name: str) -> None:
    hub.add(name, files).gated = True
    with pytest.raises(UserError, match=f"{name}: agree to its terms there"):
        gptlab.load(name)


def test_a_directory_here_goes_before_a_repository(
    hub: LocalHub, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files.rename(tmp_path / "gpt2")
    assert gptlab.load("gpt2").path == Path("gpt2")
    assert hub.requests == []


def test_a_push_makes_the_repository_and_loads_back(
    hub: LocalHub, files: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="needs a login"):
        check_can_push(name)
    monkeypatch.setenv("HF_TOKEN", "hf_may-write")
    check_can_push(name)
    assert push(files, name) == f"{hub.address}/{name}"
    assert hub.repositories[name].at("main")[1] == {path.name: path.read_bytes() for path in files.iterdir()}  # type: ignore[index]
    assert torch.equal(weights_of(name), weights_of(files))
    push(files, name)  # once more: the repository is there


def test_a_push_that_is_refused_says_what_the_hub_said(
    hub: LocalHub, files: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_may-read")
    with pytest.raises(UserError, match=f"push_to={name}: .*403"):
        push(files, name)
    for wrong in ("a/b/c", "user/model@v1", "with space/x", "gpt2"):
        with pytest.raises(UserError, match="is not a repository's name"):
            check_can_push(wrong)


def test_gpt2s_vocabulary_comes_from_the_hub_if_tiktokens_server_cannot_be_reached(
    hub: LocalHub, tmp_path: Path
) -> None:
    vocabulary = ROOT.parent / "shared" / "data" / "tiktoken-cache" / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"
    if not vocabulary.is_file():
        pytest.skip("GPT-2's vocabulary is not here")
    code = "from gptlab.tokenizer.gpt2 import GPT2Tokenizer as T; t = T(); print(t.encode('Hello, I am'), t.state())"
    environment = {
        **os.environ,
        "TIKTOKEN_CACHE_DIR": str(tmp_path / "empty"),
        "HF_HOME": str(tmp_path / "hub-cache"),
        "HTTPS_PROXY": DEAD,  # nothing outside of this machine can be reached
        "NO_PROXY": "127.0.0.1",
    }

    def run(**changes: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", code], env={**environment, **changes}, capture_output=True, text=True, check=False
        )

    nowhere = run()
    assert "GPT-2's vocabulary is neither in tiktoken's cache nor in the Hub's" in nowhere.stderr
    hub.add("openai-community/gpt2", {"merges.txt": vocabulary.read_bytes()})
    assert run().stdout == "[15496, 11, 314, 716] {}\n"
    hub.forget()
    assert run(HF_HUB_OFFLINE="1").stdout == "[15496, 11, 314, 716] {}\n"
