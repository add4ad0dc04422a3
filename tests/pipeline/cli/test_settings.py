"""Flags that say what runs the steps."""

import pytest

from amalgam.pipeline.cli.settings import Settings
from amalgam.pipeline.engine.step import Resources, Step


def equipped(**flags) -> Resources:
    step = Step("tuned", "tests.pipeline.example:walk", is_distributed=True)
    return Settings(**{name: [text] for name, text in flags.items()}).equipped(step).resources


def test_amounts_may_be_fractions_and_processes_are_whole():
    asked = equipped(num_cpus="tuned=0.5", num_gpus="tuned=0.25", num_workers="tuned=4")
    assert asked == Resources(num_cpus=0.5, num_gpus=0.25, num_workers=4)


def test_a_share_of_a_gpu_for_every_step_gives_way_to_that_of_its_kind():
    step = Step("tuned", "tests.pipeline.example:walk", inputs={"one": Step("walk", "tests.pipeline.example:walk")})
    tuned = Settings(gpus_per_step=0.25, num_gpus=["tuned=1"], memory=["walk=1.5"]).equipped(step)
    assert tuned.resources == Resources(num_gpus=1)
    assert next(tuned.parents).resources == Resources(num_gpus=0.25, memory_gb=1.5)


def test_more_than_one_gpu_is_a_whole_number_of_them():
    with pytest.raises(ValueError, match=r"num_gpus must be whole above 1.*1\.5"):
        equipped(num_gpus="tuned=1.5")


@pytest.mark.parametrize("number", ["2.7", "0.5", "inf", "nan"])
def test_a_part_of_a_process_is_refused(number):
    with pytest.raises(ValueError, match=f"got tuned={number}"):
        equipped(num_workers=f"tuned={number}")


def test_no_process_at_all_is_refused():
    with pytest.raises(ValueError, match=r"num_workers .*got 0"):
        equipped(num_workers="tuned=0")
