"""A kind of data that is no text in windows, in a package of the user's own: one file and one yaml."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import TINY, Result
from gptlab.data.base import PreparedData
from gptlab.data.module import DataModule
from gptlab.errors import UserError

PACKAGE = '''
import torch

from gptlab.data.base import Data, PreparedData
from gptlab.tokenizer.char import CharTokenizer


class Examples:
    """A random string, and the same again: only the second half counts."""

    def __init__(self, seed, n, length):
        rows = torch.randint(4, (n, length), generator=torch.Generator().manual_seed(seed))
        self.rows, self.length = torch.cat([rows, rows], dim=1), length

    def __len__(self):
        return len(self.rows)

    def batch(self, indices):
        rows = self.rows[indices if len(indices) else [0]]
        targets = rows[:, 1:].clone()
        targets[:, : self.length - 1 if len(indices) else None] = -100
        return rows[:, :-1], targets


class Copies(Data):
    name = "copies"

    def __init__(self, *, n_train: int, num_workers: int) -> None:
        if n_train < 1:
            raise ValueError(f"n_train={n_train} must be at least 1")
        self.n_train, self.num_workers = n_train, num_workers

    def prepare(self, tokenizer, *, context_length, progress):
        length = (context_length + 1) // 2
        return PreparedData(
            name=self.name,
            tokenizer=CharTokenizer(characters="abcd"),
            fingerprint=f"copies of {length}",
            description=f"copies: {self.n_train:,} of {length} letters",
            train=Examples(0, self.n_train, length),
            val=Examples(1, 7, length),
            test=Examples(2, 5, length),
            val_bytes_per_token=1.0,
            prompt="abcd",
        )
'''


@pytest.fixture
def own_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path.parent / f"{tmp_path.name}-own"
    (package / "conf" / "data").mkdir(parents=True)
    (package / "own_copies.py").write_text(PACKAGE)
    (package / "conf" / "data" / "copies.yaml").write_text("_target_: own_copies.Copies\nn_train: 50\nnum_workers: 0\n")
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.delitem(sys.modules, "own_copies", raising=False)
    return package / "conf"


def test_it_trains_resumes_and_is_no_text(gptlab: Callable[..., Result], own_conf: Path, workplace: Path) -> None:
    settings = [setting for setting in TINY if not setting.startswith("data")]
    command = ("train", "--config-dir", str(own_conf), *settings, "data=copies", "context_length=15", "run_dir=run")
    assert "error: data.n_train=0 must be at least 1" in gptlab(*command, "data.n_train=0").err
    result = gptlab(*command, "max_steps=3", "schedule.total_steps=6")
    assert result.status == 0, result.err
    assert "copies: 50 of 8 letters" in result.out
    assert gptlab("train", "resume=run", "max_steps=6").status == 0
    summary = json.loads((workplace / "run" / "summary.json").read_text())
    assert summary["steps"] == 6
    assert summary["val_bits_per_byte"] is not None
    assert "runs code of own_copies" in gptlab("evaluate", "checkpoint=run").err
    evaluated = gptlab("evaluate", "checkpoint=run", "trust=own_copies")
    assert "copies is neither a text nor instructions" in evaluated.err


def data_module(**changes: object) -> DataModule:
    from own_copies import Copies

    data: PreparedData = Copies(n_train=50, num_workers=0).prepare(None, context_length=15, progress=None)
    data = PreparedData(**{**vars(data), **changes})  # type: ignore[arg-type]
    return DataModule(data, batch_size=4, micro_batch_size=2, n_steps=6, seed=1, num_workers=0)


@pytest.mark.usefixtures("own_conf")
def test_a_data_module_loads_all_splits_without_a_trainer() -> None:
    module = data_module()
    assert [len(inputs) for inputs, _ in module.train_dataloader()] == [4] * 6
    assert [len(inputs) for inputs, _ in module.val_dataloader()] == [2, 2, 2, 1]
    assert [len(inputs) for inputs, _ in module.test_dataloader()] == [2, 2, 1]
    with pytest.raises(UserError, match="copies has no test split"):
        data_module(test=None).test_dataloader()


@pytest.mark.usefixtures("own_conf")
def test_the_strategy_says_which_share_a_rank_has() -> None:
    whole = list(data_module().val_dataloader())
    shares = []
    for rank in range(3):
        module = data_module()
        sharing = {"num_replicas": 3, "rank": rank}
        module.trainer = SimpleNamespace(strategy=SimpleNamespace(distributed_sampler_kwargs=sharing), global_step=0)  # type: ignore[assignment]
        shares.append(list(module.val_dataloader()))
    assert [len(share) for share in shares] == [2, 2, 2]
    counted = torch.cat([targets[targets != -100] for share in shares for _, targets in share])
    assert sorted(counted.tolist()) == sorted(torch.cat([t[t != -100] for _, t in whole]).tolist())
