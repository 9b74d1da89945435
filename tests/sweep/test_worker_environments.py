"""Each of several trials gets its share of the machine."""

import pytest

from gptlab.errors import UserError
from gptlab.sweep import worker_environments as module
from gptlab.sweep.worker_environments import worker_environments
from gptlab.training.devices import Hardware

CPU, MPS, ONE_GPU = Hardware("cpu", 1, "32-true"), Hardware("mps", 1, "32-true"), Hardware("cuda", 1, "bf16-mixed")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, four GPUs."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(module, "available_cores", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)


def gpus(shares: list[dict[str, str]]) -> list[str]:
    return [share["CUDA_VISIBLE_DEVICES"] for share in shares]


def test_the_threads_of_the_cpu_are_divided_among_jobs_and_their_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_environments(1, CPU, devices=1) == [{}]
    assert worker_environments(3, CPU, devices=1) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert worker_environments(2, Hardware("cpu", 2, "32-true"), devices=2) == [{"OMP_NUM_THREADS": "2"}] * 2
    assert worker_environments(8, Hardware("cpu", 2, "32-true"), devices=2) == [{"OMP_NUM_THREADS": "1"}] * 8
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert worker_environments(2, CPU, devices=1) == [{}, {}], "a number that the user has set stays"


def test_each_job_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus(worker_environments(4, ONE_GPU, devices=1)) == ["0", "1", "2", "3"]
    assert gpus(worker_environments(2, Hardware("cuda", 2, "32-true"), devices=2)) == ["0,1", "2,3"]
    assert gpus(worker_environments(2, Hardware("cuda", 4, "32-true"), devices="auto")) == ["0,1", "2,3"]
    assert gpus(worker_environments(3, Hardware("cuda", 4, "32-true"), devices=-1)) == ["0", "1", "2"]
    assert worker_environments(4, ONE_GPU, devices=1)[0]["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8932f937,2")
    assert gpus(worker_environments(3, ONE_GPU, devices=1)) == ["5", "GPU-8932f937", "2"], "those that it may see"


@pytest.mark.parametrize(
    ("n_jobs", "hardware", "devices", "what"),
    [
        (9, CPU, 1, "hydra.sweeper.n_jobs=9: this machine has 8 CPU core(s)"),
        (2, MPS, 1, "hydra.sweeper.n_jobs=2: this machine has 1 mps device"),
        (5, ONE_GPU, 1, "hydra.sweeper.n_jobs=5: this machine has 4 cuda device(s)"),
        (3, Hardware("cuda", 2, "32-true"), 2, "n_jobs=3 of 2 devices each: this machine has 4 cuda device(s)"),
        (2, Hardware("cuda", 2, "32-true"), [0, 1], "trainer.devices=[0, 1] names devices"),
    ],
)
def test_more_jobs_than_devices_are_refused(n_jobs: int, hardware: Hardware, devices: object, what: str) -> None:
    with pytest.raises(UserError) as error:
        worker_environments(n_jobs, hardware, devices=devices)
    assert what in str(error.value)
