import pytest

from conftest import choices, conf_node
from gptlab import build
from gptlab.training.schedules import constant, cosine, wsd

TOTAL = 100


@pytest.mark.parametrize("name", choices("schedule"))
def test_every_schedule_starts_small_or_full_and_stays_within_one(name: str) -> None:
    node = conf_node("schedule", name)
    node = {key: TOTAL if value == "${max_steps}" else value for key, value in node.items()}
    schedule = build.part({"schedule": node}, "schedule")
    factors = [schedule(step) for step in range(TOTAL + 20)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0
    assert max(factors) == pytest.approx(1.0)


def test_cosine_at_its_corners() -> None:
    def at(step: int) -> float:
        return cosine(step, total_steps=TOTAL, warmup_steps=10, floor=0.1)

    assert at(0) == pytest.approx(1 / 11)
    assert at(9) == pytest.approx(10 / 11)
    assert at(10) == 1.0
    assert at(55) == pytest.approx(0.55)
    assert at(100) == at(1000) == 0.1
    assert all(at(step) >= at(step + 1) for step in range(10, 100))


def test_constant_at_its_corners() -> None:
    assert [constant(step, total_steps=9, warmup_steps=3) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert constant(0, total_steps=9, warmup_steps=0) == 1.0


@pytest.mark.parametrize(("total", "warmup"), [(300, 50), (30, 5), (20, 3), (5, 1), (1, 0)])
def test_the_default_warm_up_is_a_share_of_the_run(total: int, warmup: int) -> None:
    share = conf_node("schedule", "cosine")["warmup_steps"]
    by_share, by_steps = (
        [cosine(step, total_steps=total, warmup_steps=steps, floor=0.1) for step in range(total)]
        for steps in (share, warmup)
    )
    assert by_share == by_steps


@pytest.mark.parametrize(
    "changes",
    [{"floor": 1.5}, {"warmup_steps": 101}, {"warmup_steps": -1}, {"warmup_steps": 1.0}, {"warmup_steps": 50.5}],
)
def test_impossible_shapes_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        cosine(0, **{"total_steps": TOTAL, "warmup_steps": 10, "floor": 0.1, **changes})


def test_wsd_at_its_corners() -> None:
    def at(step: int, **changes: float) -> float:
        return wsd(step, **{"total_steps": TOTAL, "warmup_steps": 9, "decay_steps": 0.2, "floor": 0.5, **changes})

    assert [at(0), at(8), at(9), at(80)] == [0.1, 0.9, 1.0, 1.0]
    assert [at(90), at(100), at(1000)] == [0.75, 0.5, 0.5]
    assert at(99, decay_steps=0) == at(99, decay_steps=1) == 1.0
    assert at(TOTAL - 1, floor=0.0) == pytest.approx(1 / 20)


@pytest.mark.parametrize("changes", [{"decay_steps": 101}, {"decay_steps": 1.5}, {"floor": -0.1}])
def test_impossible_shapes_of_wsd_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        wsd(0, **{"total_steps": TOTAL, "warmup_steps": 10, "decay_steps": 0.2, "floor": 0.1, **changes})
