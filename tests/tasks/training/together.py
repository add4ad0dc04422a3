"""What each of several processes does when they train one network together."""

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.models import ModelSpec, build
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.distributed import ProcessGroup
from amalgam.tasks.training.loop import train

CONFIG = TrainConfig(epochs=2, batch_size=48, optimizer="adamw", learning_rate=1e-3, clip_norm=1.0, augment="crop_flip")
CONFIGS = {
    "even": CONFIG,
    "in parts": CONFIG.model_copy(update={"accumulate": 3, "augment": "shift"}),
    "one large batch and a rest of three": CONFIG.model_copy(update={"batch_size": 480, "augment": "none"}),
}
TRAINING, HELD_OUT = range(483), range(483, 604)


class Wide(nn.Module):
    """In float64, where sums in another order agree to about 1e-12."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build(ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8)), seed=0).double()

    def forward(self, images):
        return self.network(images.double())


def outcome(name: str, processes: ProcessGroup, resume=None, save=None) -> dict:
    """Weights and history of a run."""
    history: list[dict[str, float]] = []
    images = load(DataSpec(name="digits"), "train")
    trained = train(
        Wide(),
        images,
        TRAINING,
        HELD_OUT,
        CONFIGS[name],
        0,
        log=lambda m, e: history.append(m),
        processes=processes,
        resume=resume,
        save=save,
    )
    return {"weights": trained.module.state_dict(), "history": history, "best_epoch": trained.best_epoch}


def work(rank: int, size: int, folder: str) -> None:
    """Train with the others and leave the outcomes in a folder."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    torch.save({name: outcome(name, ProcessGroup.joined()) for name in CONFIGS}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
