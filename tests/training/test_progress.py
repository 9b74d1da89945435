"""What a run says of its time, and the names of runs."""

from types import SimpleNamespace
from typing import Any

import pytest

from gptlab.training.callbacks import progress
from gptlab.training.run_dir import run_label


@pytest.mark.parametrize(("tokens_per_second", "said"), [(100.0, 1), (1e9, 0)])
def test_a_run_of_hours_says_so_once_after_a_few_steps(
    monkeypatch: pytest.MonkeyPatch, tokens_per_second: float, said: int
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(progress.log, "info", lambda message, *values: lines.append(message % values))
    callback = progress.ProgressLine(every_seconds=1e9)
    module: Any = SimpleNamespace(steps=SimpleNamespace(recent_loss=None), unit="token", expected_steps=10_000)
    module.clock = SimpleNamespace(recent_tokens_per_second=tokens_per_second)
    module.device = SimpleNamespace(type="cpu")
    for step in range(1, 10):
        module.n_tokens = 1000 * step
        callback.on_train_batch_end(SimpleNamespace(global_step=step), module)  # type: ignore[arg-type]
        assert len(lines) == (said if step >= progress.ESTIMATE_STEPS else 0)
    assert not said or lines[0].startswith("this run will take about 27.8 hours on this machine (cpu)")


def test_the_name_of_a_run_has_what_was_changed() -> None:
    overrides = ["experiment=x", "optimizer.lr=1e-3", "model.d_model=64", "data.path=a/b.txt", "run_dir=here"]
    assert run_label(overrides) == "lr-1e-3_d_model-64"
    assert run_label([]) == ""
