import pytest

from tempa.train.schedule import lr_scale
from tempa.train.settings import TrainConfig

BASE = {"steps": 100, "warmup_steps": 10, "min_lr_ratio": 0.1, "decay_fraction": 0.2}


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_the_first_update_has_a_rate_above_zero(schedule: str) -> None:
    # Trap N3: a warm-up from 0 wastes the first step.
    assert lr_scale(0, TrainConfig(**BASE, schedule=schedule)) == 0.1


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_warm_up_rises_in_equal_steps_to_the_peak(schedule: str) -> None:
    config = TrainConfig(**BASE, schedule=schedule)
    assert [lr_scale(step, config) for step in range(10)] == pytest.approx([(i + 1) / 10 for i in range(10)])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_last_update_has_the_lowest_rate(schedule: str) -> None:
    config = TrainConfig(**BASE, schedule=schedule)
    scales = [lr_scale(step, config) for step in range(100)]
    assert scales[-1] == pytest.approx(0.1)
    assert min(scales[10:]) == scales[-1]
    assert scales[9] == max(scales) == 1.0


def test_wsd_stays_at_the_peak_until_its_decay() -> None:
    config = TrainConfig(**BASE, schedule="wsd")
    assert {lr_scale(step, config) for step in range(10, 80)} == {1.0}
    assert lr_scale(89, config) == pytest.approx(0.55)


def test_constant_stays_at_the_peak() -> None:
    config = TrainConfig(**BASE, schedule="constant")
    assert {lr_scale(step, config) for step in range(10, 100)} == {1.0}


def test_cosine_is_half_way_in_the_middle() -> None:
    config = TrainConfig(**{**BASE, "warmup_steps": 0}, schedule="cosine")
    assert lr_scale(49, config) == pytest.approx(0.55)


@pytest.mark.parametrize("warmup_steps", [0, 5, 9, 50])
@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_any_warm_up_gives_rates_between_zero_and_the_peak(schedule: str, warmup_steps: int) -> None:
    config = TrainConfig(steps=8, warmup_steps=warmup_steps, schedule=schedule, decay_fraction=1.0)
    assert all(0 < lr_scale(step, config) <= 1 for step in range(8))
