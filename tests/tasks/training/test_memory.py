"""Batches that do not fit into memory are computed in parts, and training ends with the same weights."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from amalgam.tasks.data.images import Images
from amalgam.tasks.training.config import GroupDRO, TrainConfig
from amalgam.tasks.training.distributed import ProcessGroup
from amalgam.tasks.training.epochs import silent
from amalgam.tasks.training.group_robust import GroupWeighted
from amalgam.tasks.training.loop import train
from amalgam.tasks.training.objective import Objective

CONFIG = TrainConfig(epochs=2, batch_size=24, learning_rate=0.01, optimizer="adamw", weight_decay=0.1, clip_norm=1.0)


class Allocator(TorchDispatchMode):
    """Refuses tensors beyond a size, as a GPU does that is nearly full."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.most_bytes, self.refused = most_bytes, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.nbytes > self.most_bytes:
            self.refused += 1
            raise torch.OutOfMemoryError(f"tried to allocate {made.nbytes} bytes")
        return made


@contextmanager
def hearing(caplog) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, "amalgam.tasks"):
        yield


@pytest.fixture
def images() -> Images:
    draws = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (100, 1, 12, 12), dtype=torch.uint8, generator=draws)
    return Images(lambda rows: pictures[rows], torch.arange(100) % 3, ("a", "b", "c"), (1, 12, 12), lambda: "f" * 16)


def pointwise() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 14, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(14, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 20, 3), nn.GroupNorm(4, 20), nn.ReLU(), nn.Flatten(), nn.Linear(2000, 3))


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Flatten(), nn.Linear(2000, 3))


WIDEST = 14 * 12 * 12  # numbers that the widest layer gives for an image, about the same in all of them


class Doubled(nn.Module):
    """In float64, where sums in another order agree to 1e-12."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images.double())


def weights(network: nn.Module, images: Images, **given) -> dict[str, torch.Tensor]:
    return train(network, images, range(60), range(60, 63), CONFIG, 0, log=silent, **given).module.state_dict()


@pytest.mark.parametrize("network", [pointwise, convolutional])
@pytest.mark.parametrize("images_at_once", [13, 7, 3])
def test_a_batch_in_as_many_parts_as_memory_needs_makes_the_same_steps(network, images_at_once, images, caplog):
    torch.manual_seed(images_at_once)
    network = Doubled(network())
    whole = weights(network, images)
    with hearing(caplog), Allocator(images_at_once * WIDEST * 8) as allocator:
        divided = weights(network, images)
    assert allocator.refused and "memory ran out with 24 images at once" in caplog.text
    for name, tensor in whole.items():
        torch.testing.assert_close(divided[name], tensor, rtol=1e-9, atol=1e-12)


class Compared(Objective):
    """A loss that compares images."""

    is_mean_over_images = False


@pytest.mark.parametrize(
    ("network", "objective", "reason"),
    [
        (with_batch_norm, None, "batch norm"),
        (pointwise, Compared(), "its loss needs all images"),
        (pointwise, GroupWeighted(GroupDRO(), torch.arange(100) % 2), "its loss needs all images"),
    ],
)
def test_steps_that_parts_would_change_are_refused(network, objective, reason, images):
    with Allocator(13 * WIDEST * 4), pytest.raises(ValueError, match=f"24 images at once .*{reason}.*lower batch_size"):
        weights(network(), images, objective=objective)


@pytest.mark.parametrize(("accumulate", "processes"), [(2, 1), (1, 2)])
def test_parts_of_a_loss_that_needs_whole_batches_are_refused(accumulate, processes, images):
    config = CONFIG.model_copy(update={"accumulate": accumulate})
    group = ProcessGroup(0, processes)
    with pytest.raises(ValueError, match=f"got {accumulate} and {processes}"):
        train(pointwise(), images, range(60), range(63), config, 0, log=silent, objective=Compared(), processes=group)


def test_two_images_that_do_not_fit_are_refused(images):
    with Allocator(15_000), pytest.raises(ValueError, match=r"cannot be smaller.*lower batch_size"):
        weights(pointwise(), images)


LIMITED = """
import resource, torch, logging
from torch import nn
from amalgam.tasks.data.images import Images
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.loop import train
torch.set_num_threads(1)
logging.basicConfig()
pictures = torch.zeros(300, 1, 2, 2, dtype=torch.uint8)
images = Images(lambda rows: pictures[rows], torch.arange(300) % 3, ("a", "b", "c"), (1, 2, 2), lambda: "f")
network = nn.Sequential(nn.Flatten(), nn.Linear(4, 200_000), nn.ReLU(), nn.Linear(200_000, 3))
config = TrainConfig(epochs=1, batch_size=256, optimizer="sgd", learning_rate=1e-3)
train(network, images, range(8), range(3), config, 0, log=print)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
train(network, images, range(256), range(3), config, 0, log=print)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_machine_that_cannot_allocate_computes_in_parts():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "memory ran out with 256 images at once" in done.stderr and "train/loss" in done.stdout
