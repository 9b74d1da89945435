"""A kind of data that is no text in windows, in a package of the user's own: one file and one yaml."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import TINY, Result
from gptlab.data.base import PreparedData
from gptlab.data.module import DataModule
from gptlab.errors import UserError

PACKAGE = '''
import numpy as np
import torch

from gptlab.data.base import Data, PreparedData
from gptlab.tokenizer.char import CharTokenizer


class Examples:
    """A random string, and the same again: only the second half counts."""

    def __init__(self, first, n, length):
        self.first, self.n, self.length = first, n, length

    def __len__(self):
        return self.n

    def batch(self, indices):
        rows = [np.random.default_rng(self.first + i).integers(0, 4, self.length) for i in indices]
        rows = np.array(rows) if rows else np.zeros((1, self.length), dtype=np.int64)
        ids = torch.from_numpy(np.concatenate([rows, rows], axis=1))
        targets = ids[:, 1:].clone()
        targets[:, : self.length - 1] = -100
        if len(indices) == 0:
            targets[:] = -100
        return ids[:, :-1], targets


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
            val=Examples(10**6, 7, length),
            test=Examples(10**7, 5, length),
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


def test_it_trains_resumes_and_counts_each_example_once(
    gptlab: Callable[..., Result], own_conf: Path, workplace: Path
) -> None:
    settings = [setting for setting in TINY if not setting.startswith("data")]
    command = (
        "train",
        "--config-dir",
        str(own_conf),
        *settings,
        "data=copies",
        "context_length=15",
        "schedule.total_steps=8",
    )
    result = gptlab(*command, "run_dir=run")
    assert result.status == 0, result.err
    assert "copies: 50 of 8 letters" in result.out
    assert gptlab("train", "resume=run", "max_steps=8").status == 0
    assert gptlab(*command, "run_dir=whole", "max_steps=8").status == 0
    resumed, whole = (json.loads((workplace / name / "summary.json").read_text()) for name in ("run", "whole"))
    assert resumed["val_loss"] == whole["val_loss"]
    assert resumed["val_bits_per_byte"] is not None
    evaluated = gptlab("evaluate", "checkpoint=run")
    assert evaluated.status == 2
    assert "runs code of own_copies" in evaluated.err
    evaluated = gptlab("evaluate", "checkpoint=run", "trust=own_copies")
    assert "run was trained on copies, which is no text" in evaluated.err
    wrong = gptlab(*command, "data.n_train=0", "run_dir=wrong")
    assert "error: data.n_train=0 must be at least 1" in wrong.err


def data_module(own_conf: Path) -> DataModule:
    from own_copies import Copies

    data: PreparedData = Copies(n_train=50, num_workers=0).prepare(None, context_length=15, progress=None)
    return DataModule(data, batch_size=4, micro_batch_size=2, n_steps=6, seed=1, num_workers=0)


def test_a_data_module_loads_all_splits_without_a_trainer(own_conf: Path) -> None:
    module = data_module(own_conf)
    assert [len(inputs) for inputs, _ in module.train_dataloader()] == [4] * 6
    assert [len(inputs) for inputs, _ in module.val_dataloader()] == [2, 2, 2, 1]
    assert [len(inputs) for inputs, _ in module.test_dataloader()] == [2, 2, 1]
    without = DataModule(
        PreparedData(**{**vars(module.data), "test": None}),
        **{"batch_size": 4, "micro_batch_size": 2, "n_steps": 6, "seed": 1, "num_workers": 0},
    )
    with pytest.raises(UserError, match="copies has no test split"):
        without.test_dataloader()


def test_the_strategy_says_which_share_a_rank_has(own_conf: Path) -> None:
    whole = list(data_module(own_conf).val_dataloader())
    shares = []
    for rank in range(3):
        module = data_module(own_conf)
        sharing = {"num_replicas": 3, "rank": rank}
        module.trainer = SimpleNamespace(strategy=SimpleNamespace(distributed_sampler_kwargs=sharing), global_step=0)  # type: ignore[assignment]
        shares.append(list(module.val_dataloader()))
    assert [len(share) for share in shares] == [2, 2, 2]
    counted = torch.cat([targets[targets != -100] for share in shares for _, targets in share])
    assert sorted(counted.tolist()) == sorted(torch.cat([t[t != -100] for _, t in whole]).tolist())
    assert np.all([len(inputs) > 0 for share in shares for inputs, _ in share])
