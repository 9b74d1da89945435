"""The Hub: the real client against a real server on this machine."""

import itertools
import os
import re
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
    """No other test's, for the client's cache is shared."""
    return f"user/model-{uuid4().hex[:8]}"


def weights_of(source: str | Path) -> torch.Tensor:
    return gptlab.load(source).model.trunk.token_embedding.weight


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
    hub.add(
        name, {**{path.name: path.read_bytes() for path in files.iterdir()}, "pytorch_model.bin": b"never asked for"}
    )
    assert torch.equal(weights_of(name), weights_of(files))
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]


def test_a_cache_hit_downloads_nothing(hub: LocalHub, files: Path, name: str) -> None:
    hub.add(name, files)
    gptlab.load(name)
    hub.requests.clear()
    gptlab.load(name)
    assert hub.downloads() == []


def test_gpt2_is_short_for_openais(hub: LocalHub, files: Path) -> None:
    hub.add("openai-community/gpt2-large", files)
    assert gptlab.load("gpt2-large").name == "gpt2-large"


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: LocalHub, tmp_path: Path, files: Path, name: str) -> None:
    old = hub.add(name, files, "v1").refs["v1"]
    save_gpt2(tmp_path / "new", n_layer=1)
    hub.add(name, tmp_path / "new", "main")
    assert len(gptlab.load(name).model.trunk.blocks) == 1
    assert len(gptlab.load(f"{name}@v1").model.trunk.blocks) == 2
    assert len(gptlab.load(f"{name}@{old}").model.trunk.blocks) == 2


def test_a_file_that_was_cut_short_is_thrown_away(hub: LocalHub, files: Path, name: str) -> None:
    hub.add(name, files)
    gptlab.load(name)
    cached = next(
        Path(os.environ["HF_HOME"]).glob(f"hub/models--{name.replace('/', '--')}/snapshots/*/model.safetensors")
    )
    cached.write_bytes(cached.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.safetensors from .* was damaged on its way, and is thrown away"):
        gptlab.load(name)
    assert torch.equal(weights_of(name), weights_of(files))


def test_a_new_commit_is_noticed(hub: LocalHub, tmp_path: Path, files: Path, name: str) -> None:
    hub.add(name, files)
    gptlab.load(name)
    save_gpt2(tmp_path / "new", n_layer=1)
    hub.add(name, tmp_path / "new")
    assert len(gptlab.load(name).model.trunk.blocks) == 1


def test_an_interrupted_download_goes_on_where_it_stopped(hub: LocalHub, tmp_path: Path, name: str) -> None:
    save_gpt2(tmp_path / "large", n_embd=256, n_layer=8)  # 25 MB: the client writes 10 MiB at a time
    hub.add(name, tmp_path / "large")
    hub.cut_once["model.safetensors"] = 15_000_000
    assert torch.equal(weights_of(name), weights_of(tmp_path / "large"))
    ranges = [given for _, path, given in hub.requests if path.endswith("model.safetensors") and given]
    assert f"bytes={10 * 2**20}-" in ranges


@pytest.mark.slow
def test_offline_finds_what_is_cached_and_says_what_is_not(hub: LocalHub, files: Path, name: str) -> None:
    hub.add(name, files)
    gptlab.load(name)
    hub.requests.clear()
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": DEAD}):
        seconds, said = in_a_process(name, **environment)
        assert said == f"{name} loaded"
        assert seconds < 2
        seconds, said = in_a_process("user/never-seen", **environment)
        assert said.startswith("UserError: user/never-seen is no file or directory here and not in the Hub's cache")
        reason = "HF_HUB_OFFLINE is set" if "HF_HUB_OFFLINE" in environment else f"{DEAD} cannot be reached"
        assert reason in said
        assert seconds < 2
    assert hub.requests == []


def test_a_cache_that_holds_a_part_is_not_taken_for_the_whole(hub: LocalHub, tmp_path: Path, name: str) -> None:
    """Another program may have fetched the weights alone: which tokenizer is theirs, nobody knows then."""
    save_gpt2(tmp_path / "files", vocab_size=50257, n_embd=4)
    hub.add(name, tmp_path / "files")
    hf_hub_download(name, "config.json")
    hub.status = 503
    with pytest.raises(UserError, match=r"holds only a part of it \(no model\.safetensors\), and .*503"):
        gptlab.load(name)
    hub.status = None
    hf_hub_download(name, "model.safetensors")
    hub.status = 503
    with pytest.raises(UserError, match=r"holds only a part of it \(no tokenizer\.json\), and .*503"):
        gptlab.load(name)


def test_a_hub_in_trouble_is_no_hindrance_for_what_is_cached(hub: LocalHub, files: Path, name: str) -> None:
    hub.add(name, files)
    gptlab.load(name)
    hub.status = 503
    assert torch.equal(weights_of(name), weights_of(files))
    with pytest.raises(UserError, match=r"user/other is no file .* answered .*503"):
        gptlab.load("user/other")


def test_what_does_not_exist_is_named(hub: LocalHub, files: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=f"{name} is no file or directory here, and {hub.address}/{name} does not exist"
    ):
        gptlab.load(name)
    hub.add(name, files)
    with pytest.raises(UserError, match=f"{name}@v9: {hub.address}/{name} has no revision v9"):
        gptlab.load(f"{name}@v9")


def test_a_missing_file_is_named_before_anything_large_is_fetched(hub: LocalHub, files: Path, name: str) -> None:
    whole = {path.name: path.read_bytes() for path in files.iterdir()}
    hub.add(name, {file: content for file, content in whole.items() if file != "config.json"})
    with pytest.raises(UserError, match=r"has no config\.json"):
        gptlab.load(name)
    assert hub.downloads() == []
    other = f"{name}-2"
    hub.add(other, {"config.json": whole["config.json"], "pytorch_model.bin": b"a pickle"})
    with pytest.raises(UserError, match=r"has pytorch_model\.bin and no model\.safetensors: a pickle"):
        gptlab.load(other)
    assert hub.downloads() == []


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    hub: LocalHub, tmp_path: Path, name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_gpt2(tmp_path / "large", n_embd=256, n_layer=8)
    hub.add(name, tmp_path / "large")
    ticks = itertools.count(0, 60)
    monkeypatch.setattr("gptlab.checkpoint.progress.time.monotonic", lambda: float(next(ticks)))
    capsys.readouterr()
    gptlab.load(name)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"downloading {name}, 25.4 MB"
    assert re.fullmatch(r"  \d+ of 25 MB", lines[-1])
    assert all(re.fullmatch(r"  \d+ of \d+ MB", line) for line in lines[1:])


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
    with pytest.raises(UserError, match="asks its users to agree to terms first"):
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
    with pytest.raises(UserError, match=f"push_to={name}: the Hub refused .*403"):
        push(files, name)
    for wrong in ("a/b/c", "user/model@v1", "with space/x", "gpt2", "user/a--b", "user/x.git"):
        with pytest.raises(UserError, match="is no repository's name"):
            check_can_push(wrong)


def test_gpt2s_vocabulary_comes_from_the_hub_where_tiktokens_server_cannot_be_reached(
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
        "HTTPS_PROXY": DEAD,  # whatever is not on this machine cannot be reached
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
