"""Experiment files anywhere, and those that repeat a run."""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.config_source import ConfigSource
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from conftest import CONF, ROOT, TINY, Result, choices
from gptlab import build
from gptlab.cli.compose import run_command
from gptlab.cli.experiment_file import with_experiment_files
from gptlab.cli.experiment_text import as_comments, experiment_of, with_absolute_paths
from gptlab.cli.free_text import plain_words, quote_free_text
from gptlab.sweep.space import parameter

Command = Callable[..., Result]

SMALL = """\
defaults:
  - override /data: text
  - override /model/attention: plain

max_steps: 7
data:
  path: poem.txt
optimizer:
  lr: 3e-3
"""


def composed(*words: str) -> build.Config:
    """What a command line composes to, but for what a run has for itself."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = build.resolve(compose("train", overrides=quote_free_text(with_experiment_files(list(words)))))
    return {key: value for key, value in config.items() if key not in ("run_dir", "resume")}


def written(path: Path, text: str) -> str:
    """The file's name, as a word to type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return f"experiment={path}"


# from anywhere


@pytest.mark.parametrize("name", choices("experiment"))
def test_a_file_anywhere_composes_as_one_of_conf_experiment(tmp_path: Path, name: str) -> None:
    shutil.copy(CONF / "experiment" / f"{name}.yaml", tmp_path / "elsewhere.yaml")
    path = "data.path=somewhere.txt"
    assert composed(f"experiment={tmp_path}/elsewhere.yaml", path) == composed(f"experiment={name}", path)


@pytest.mark.parametrize("header", ["", "# @package _global_\n", "# A comment.\n"])
def test_it_overlays_everything_and_the_command_line_beats_it(tmp_path: Path, header: str) -> None:
    word = written(tmp_path / "small.yaml", header + SMALL)
    config = composed(word, "optimizer.lr=1", "context_length=32")
    assert config["model"]["attention"]["_target_"].endswith("PlainAttention")
    assert (config["max_steps"], config["schedule"]["total_steps"]) == (7, 7)
    assert (config["optimizer"]["lr"], config["context_length"]) == (1, 32)
    assert "FusedAttention" in composed(word, "model/attention=fused")["model"]["attention"]["_target_"]


def test_it_may_build_on_one_of_conf_experiment(tmp_path: Path) -> None:
    word = written(tmp_path / "more.yaml", "defaults:\n  - verdict\n  - _self_\nmax_steps: 7\n")
    config = composed(word, "data.path=x.txt")
    assert (config["max_steps"], config["context_length"]) == (7, 256)


@pytest.mark.parametrize(
    "place",
    [
        "x.yaml",
        "x.yml",
        "./verdict.yaml",
        "a b/,[1]=${x}'\".yaml",
        "~/home.yaml",
        "caf\u00e9%20~/\\x.yaml",
        "???/x.yaml",
    ],
)
def test_any_path_names_it(workplace: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("HOME", str(workplace))
    written(Path(place).expanduser(), "seed: 77\n")
    assert composed(f"experiment={place}")["seed"] == 77
    absolute = Path(place).expanduser().absolute()
    typed = plain_words(with_experiment_files([f"experiment={place}", "seed=1"]))
    assert typed == [f"experiment={absolute}", "seed=1"]
    assert composed(*typed)["seed"] == 1


def test_its_runs_are_filed_under_its_name(gptlab: Command, workplace: Path) -> None:
    written(workplace / "kept" / "my best.yaml", SMALL)
    arguments = [word for word in TINY if not word.startswith(("data", "max_steps"))]
    result = gptlab("train", "experiment=kept/my best.yaml", *arguments, "max_steps=3")
    assert result.status == 0, result.err
    (run,) = (workplace / "outputs" / "my best").iterdir()
    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"] == 3e-3
    (workplace / "kept" / "my best.yaml").unlink()
    assert gptlab("train", f"resume={run}", "max_steps=4").status == 0, "a run needs nothing but its directory"


@pytest.mark.slow
def test_a_multirun_takes_it_too(gptlab: Command, workplace: Path) -> None:
    written(workplace / "kept" / "my best.yaml", SMALL)
    arguments = [word for word in TINY if not word.startswith("data")]
    result = gptlab("train", "-m", "experiment=kept/my best.yaml", *arguments, "seed=1,2", "hydra.sweep.dir=sweep")
    assert result.status == 0, result.err
    configs = [yaml.safe_load((workplace / "sweep" / number / "config.yaml").read_text()) for number in "01"]
    assert [(config["seed"], config["optimizer"]["lr"]) for config in configs] == [(1, 3e-3), (2, 3e-3)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "joblib"])
def test_jobs_that_other_processes_compose_have_it_too(workplace: Path, launcher: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    written(workplace / "my best.yaml", SMALL)
    arguments = [word for word in TINY if not word.startswith("data")]
    sweep = ["-m", "seed=1,2", "hydra.sweep.dir=sweep", f"hydra/launcher={launcher}"]
    command = [sys.executable, str(ROOT / "train.py"), *sweep, "experiment=my best.yaml", *arguments]
    subprocess.run(command, cwd=workplace, check=True, capture_output=True, timeout=200)
    for number in "01":
        assert yaml.safe_load((workplace / "sweep" / number / "config.yaml").read_text())["optimizer"]["lr"] == 3e-3


@pytest.mark.slow
def test_ranks_have_it_too(workplace: Path) -> None:
    written(workplace / "my best.yaml", SMALL)
    arguments = [word for word in TINY if not word.startswith(("data", "trainer"))]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "run_dir=run"]
    command = [sys.executable, str(ROOT / "train.py"), "experiment=my best.yaml", *arguments, *two]
    run = subprocess.run(command, cwd=workplace, check=True, capture_output=True, text=True, timeout=200)
    assert "finished       6 steps" in run.stdout


BAD = {
    # the file's text, and words that the sentence must have
    "no yaml": ("seed: [1,", ["experiment=bad.yaml is no yaml file that can be read: line 1"]),
    "no text": ("seed: caf\udce9", ["is no yaml file that can be read"]),
    "same key twice": ("seed: 1\nseed: 2", ["line 2", "duplicate key seed"]),
    "an object": ("a: !!python/object:os.system {}", ["could not determine a constructor"]),
    "empty": ("\n", ["holds no settings"]),
    "list": ("- seed: 1", ["holds no settings: an experiment is a mapping"]),
    "number": ("3", ["holds no settings"]),
    "key that is no text": ("optimizer: {true: 3}", ["True is no name of a setting"]),
    "defaults that are no list": ("defaults: {override /model: gpt2}", ["defaults must be a list"]),
    "two defaults in one": ("defaults: [{override /model: gpt2, override /data: text}]", ["defaults must be a list"]),
    "choice that is no name": ("defaults: [{override /model: [3]}]", ["defaults must be a list"]),
    "unknown group": ("defaults: [{override /modle: gpt2}]", ["bad.yaml: modle is not a setting; did you mean model?"]),
    "unknown choice": ("defaults: [{override /model: gpt3}]", ["model=gpt3 is not one of the choices; did you mean"]),
    "unknown experiment": ("defaults: [verdic]", ["bad.yaml: experiment=verdic is not one of the choices"]),
    "group without override": ("defaults: [{/model: gpt2}]", ["To override a value use 'override model: gpt2'"]),
    "override before others": ("defaults: [{override /model: gpt2}, verdict]", ["In ", "bad.yaml: Override 'model"]),
    "unknown key": ("sed: 3", ["sed is not a setting; did you mean seed?"]),
    "unknown key in a group": ("optimizer: {lrr: 3}", ["optimizer.lrr is not a setting of adamw; did you mean lr?"]),
    "list for a group": ("optimizer: [3]", ["bad.yaml", "Cannot merge DictConfig with ListConfig"]),
    "interpolation of nothing": ("seed: ${sed}", ["'sed' not found"]),
    "wrong type": ("seed: many", ["seed=many must be a whole number"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_none_is_one_sentence(gptlab: Command, workplace: Path, case: str) -> None:
    text, words = BAD[case]
    (workplace / "bad.yaml").write_text(text, errors="surrogateescape")
    check_refused(gptlab, workplace, ["experiment=bad.yaml"], words)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("experiment=nowhere.yaml", "experiment=nowhere.yaml: there is no such file"),
        ("experiment=verdict.yaml", "a plain name, without .yaml and /, is one of conf/experiment"),
        ("experiment=nowhere/verdict", "there is no such file"),
        ("experiment=folder.yaml", "experiment=folder.yaml is a directory"),
        ("experiment=./poem.txt", "experiment=./poem.txt is no .yaml file"),
        ("experiment=~nobody-at-all/x.yaml", "without ~"),
        ("+experiment=good.yaml", "Multiple values for experiment"),
        ("model=3 experiment=good.yaml", "model=3 is not one of the choices"),
        ("experiment=good.yaml model=3", "model=3 is not one of the choices"),
        ("experiment=good.yaml optimizer.muh=3", "optimizer.muh is not a setting"),
        ("experiment=good.yaml callbacks.attention.promt=a", "did you mean callbacks.attention.prompt?"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(gptlab: Command, workplace: Path, word: str, sentence: str) -> None:
    (workplace / "folder.yaml").mkdir()
    written(workplace / "good.yaml", "defaults:\n  - override /callbacks: attention\n")
    check_refused(gptlab, workplace, word.split(), [sentence])


def check_refused(gptlab: Command, workplace: Path, words: list[str], sentence: list[str]) -> None:
    before = set(workplace.rglob("*"))
    result = gptlab("train", *words)
    assert result.status == 2, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    assert "%2F" not in result.err
    for words_in_it in sentence:
        assert words_in_it in result.err
    assert set(workplace.rglob("*")) == before


# that repeat a run

TEXT = st.text(
    st.one_of(st.sampled_from("\\${}'\"[](),=:#@-&*!|>%`~? \n\tab1e_."), st.characters(exclude_categories=["Cs"])),
    min_size=1,
    max_size=12,
).filter(lambda text: not text.startswith("~"))  # nobody's home
LIKE_NUMBERS = st.sampled_from(["1e-3", "1_000", "0x1f", "true", "~", "2024-01-01", ".5", "1:30", "null", "yes", "="])
NAMES = ("tokenizer", "model", "model/attention", "model/init", "schedule", "trainer", "callbacks")
GROUPS = {group: choices(group) for group in NAMES}
VALUES = {
    "optimizer.lr": st.sampled_from(["1e-3", "0.002", "2e-3", "1"]),
    "optimizer.betas": st.sampled_from(["[0.9,0.95]", "[0.9,0.99]"]),
    "model.n_layers": st.integers(1, 3),
    "model.dropout": st.sampled_from(["0.0", "0", "0.25"]),
    "model.qkv_bias": st.sampled_from(["true", "false", "1"]),
    "micro_batch_size": st.sampled_from(["null", "2"]),
    "max_steps": st.sampled_from(["300", "40", "${save_every}"]),
    "seed": st.integers(0, 3),
    "schedule.warmup_steps": st.integers(49, 51),
    "trainer.devices": st.sampled_from(["auto", "1", "[0,1]"]),
    "trainer.strategy": st.sampled_from(["auto", "ddp", "{_target_:some.Strategy,options:{a:1,b:[]}}"]),
    "+trainer.foo": st.sampled_from(["1", "{a:{b:{}}}", "[{a:1},2]", "'1e-3'", "1_0", "${max_steps}"]),
    "callbacks.samples.prompt": TEXT | LIKE_NUMBERS,
    "callbacks.curves.every_seconds": st.sampled_from(["60", "1.5", ".inf", "nan"]),
    "data.cache_dir": TEXT | LIKE_NUMBERS,
    "init_from": st.sampled_from(["gpt2", "null", "somebody/gpt2", "./gpt2", "poem.txt", "${x}"]),
    "run_dir": TEXT,
}
TAKEN_AWAY = st.sampled_from(["~logger", "~logger.csv", "logger.tensorboard=null", "~callbacks.curves", "~callbacks"])


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    experiment = draw(st.sampled_from([None, *choices("experiment")]))
    words = [f"experiment={experiment}"] if experiment is not None else []
    if experiment is not None or draw(st.booleans()):
        words += ["data=text", f"data.path={draw(TEXT | LIKE_NUMBERS.filter(lambda text: text != 'null'))}"]
    taken_away = draw(st.none() | TAKEN_AWAY)
    for key in draw(st.lists(st.sampled_from([*GROUPS, *VALUES]), unique=True, max_size=8)):
        if taken_away is None or not key.startswith("callbacks"):
            words.append(f"{key}={draw(VALUES[key] if key in VALUES else st.sampled_from(GROUPS[key]))}")
    return [*words, taken_away] if taken_away is not None else words


def comparable(config: build.Config) -> str:
    """With what null switches off left out, and paths as they hold from anywhere; 1 is not true."""
    for group in build.LATE_GROUPS:
        config[group] = {name: node for name, node in config.get(group, {}).items() if node is not None}
    config["data"] = {
        key: str(Path(value).expanduser().absolute()) if key in ("path", "cache_dir") and value else value
        for key, value in config["data"].items()
    }
    if config["init_from"] is not None and Path(config["init_from"]).exists():
        config["init_from"] = str(Path(config["init_from"]).absolute())
    return yaml.safe_dump(config)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=command_lines())
@example(words=[])
@example(words=["data=text", "data.path=\x85"])
@example(words=["callbacks=[default,attention]", "model/attention=[plain]"])
@example(words=["data=text", "data.path=\\\\${x}/${oc.env:HOME} a: #b", "callbacks.samples.prompt=\\${max_steps}\\"])
def test_the_file_of_a_run_composes_to_the_same(workplace: Path, words: list[str]) -> None:
    text = experiment_of(words, comment="What it is.")
    assert text.startswith("# @package _global_\n# What it is.\n")
    assert "take no setting away" not in text
    again = composed(written(workplace / "kept" / "best.yaml", text))
    assert comparable(again) == comparable(composed(*words))


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_can_be_repeated(workplace: Path, name: str) -> None:
    words = [f"experiment={name}", "data.path=some text.txt"]
    text = experiment_of(words, comment="It.")
    assert comparable(composed(written(workplace / "best.yaml", text))) == comparable(composed(*words))
    assert experiment_of(["experiment=best.yaml"], comment="It.") == text, "again, from a path"


def test_it_holds_choices_and_what_they_do_not_say() -> None:
    words = ["experiment=verdict", "model/init=gpt2", "data.path=/texts/a.txt", "optimizer.lr=1e-3", "run_dir=there"]
    words += ["~callbacks.samples", "seed=1337", "schedule.warmup_steps=${max_steps}"]
    text = experiment_of(words, comment="One.\nTwo.")
    assert text == (
        "# @package _global_\n# One.\n# Two.\ndefaults:\n- override /data: text\n- override /model: gpt2\n"
        "- override /schedule: constant\n- override /tokenizer: gpt2\n"
        "data:\n  path: /texts/a.txt\nmodel:\n  qkv_bias: false\n  tie_head: false\n"
        "optimizer:\n  lr: 0.001\n  betas:\n  - 0.9\n  - 0.999\n"
        "schedule:\n  warmup_steps: ${max_steps}\n"
        "context_length: 256\nbatch_size: 2\nmax_steps: 90\nvalidate_every: 5\nsave_every: 90\ngrad_clip: null\n"
        "callbacks:\n  samples: null\n"
    )


def test_what_no_file_can_say_is_in_its_comment() -> None:
    text = experiment_of(["~schedule.floor", "~grad_clip", "~logger.csv"], comment="It.")
    assert text.splitlines()[1:4] == [
        "# It.",
        "# Not in this file, which can take no setting away: ~schedule.floor",
        "# Not in this file, which can take no setting away: ~grad_clip",
    ]
    assert yaml.safe_load(text) == {"logger": {"csv": None}}


@settings(deadline=None)
@given(comment=st.text(max_size=20))
@example("@package model\n @a b c\r\x85\u2028# @x")
def test_any_comment_leaves_the_rest_alone(comment: str) -> None:
    text = "\n".join(["# @package _global_", *as_comments(comment)])
    assert ConfigSource._get_header_dict(text)["package"] == "_global_"
    assert OmegaConf.load(io.StringIO(f"{text}\nseed: 3")) == {"seed": 3}


def test_a_run_and_its_repetition_from_elsewhere_are_the_same(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gptlab("train", *TINY, "run_dir=first")
    written(workplace / "sweep" / "best.yaml", experiment_of(list(TINY), comment="The best."))
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    result = gptlab("train", "experiment=../sweep/best.yaml", "run_dir=again")
    assert result.status == 0, result.err
    one, two = (
        {**yaml.safe_load((workplace / run / "config.yaml").read_text()), "run_dir": None}
        for run in ("first", "elsewhere/again")
    )
    assert one == two


def test_it_can_be_asked_for_in_the_midst_of_a_run(workplace: Path) -> None:
    written(workplace / "my.yaml", SMALL)
    texts = []

    def task(cfg: DictConfig) -> int:
        hydra, config = GlobalHydra.instance().hydra, HydraConfig.get()
        words = plain_words(list(config.overrides.task))
        texts.append(experiment_of(words, comment=""))
        assert GlobalHydra.instance().hydra is hydra
        assert HydraConfig.get() is config
        return 0

    assert run_command(task, config_name="train", arguments=["experiment=my.yaml", "seed=3"]) == 0
    assert yaml.safe_load(texts[0])["seed"] == 3
    assert yaml.safe_load(texts[0])["data"]["path"] == str(workplace / "poem.txt")


def test_a_swept_path_means_the_same_from_anywhere(workplace: Path) -> None:
    swept = with_absolute_paths(parameter("data.path", {"choice": ["poem.txt", "/b/${x}.txt"]}))
    assert [swept.override(value) for value in swept.examples] == [
        f"data.path={workplace}/poem.txt",
        "data.path=/b/${x}.txt",
    ]
    start = parameter("init_from", {"choice": ["null", "gpt2", "poem.txt"]})
    assert with_absolute_paths(start).examples == ("null", "gpt2", str(workplace / "poem.txt"))
    lr = parameter("optimizer.lr", {"choice": [0.1, 0.2]})
    assert with_absolute_paths(lr) == lr
