"""Several processes that train together give what one gives alone."""

import pytest
import torch
import torch.multiprocessing as processes

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.training.distributed import ALONE, ProcessGroup
from amalgam.tasks.training.loop import train
from tests.tasks.training.together import CONFIGS, Wide, outcome, work


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    processes.spawn(work, args=(2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_train_as_one_does(of_two, name):
    alone, (first, second) = outcome(name, ALONE), (found[name] for found in of_two)
    for key, tensor in alone["weights"].items():
        assert torch.equal(first["weights"][key], second["weights"][key])
        # Sums in another order differ by about 1e-16 a step; Adam divides by the root of squares of as many digits.
        torch.testing.assert_close(first["weights"][key], tensor, rtol=1e-8, atol=1e-10)
    assert first["best_epoch"] == second["best_epoch"] == alone["best_epoch"]
    assert not second["history"]  # the first one speaks for both
    for ours, theirs in zip(alone["history"], first["history"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-6)  # losses are logged in float32


@pytest.mark.parametrize("count, size", [(7, 2), (8, 3), (1, 4), (5, 5)])
def test_every_example_is_one_process_own(count, size):
    worlds = [ProcessGroup(rank, size) for rank in range(size)]
    own = [list(range(count))[processes.part(count)] for processes in worlds if processes.weight(count)]
    assert [i for each in own for i in each] == list(range(count)) and sum(
        processes.weight(count) for processes in worlds
    ) == pytest.approx(1)
    assert all(len(range(count)[processes.part(count)]) > 0 for processes in worlds)


def test_a_batch_that_cannot_be_shared_is_refused_before_training():
    images = load(DataSpec(name="digits"), "train")
    config = CONFIGS["even"].model_copy(update={"batch_size": 10})
    with pytest.raises(ValueError, match=r"batch_size .*\(3\), got 10"):
        train(Wide(), images, range(100), range(100, 200), config, 0, log=print, processes=ProcessGroup(0, 3))
