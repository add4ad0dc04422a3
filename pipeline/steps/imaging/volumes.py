"""Train a translation of layered volumes, and measure it on others."""

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveInt

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.imaging.volumes.config import TranslationConfig
from amalgam.tasks.scoring.results import Network, Result

TEST_SEED = 10**6  # no training volume is drawn from it


class VolumesConfig(Config):
    """One translator of synthetic volumes."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Depth, height, width."""
    num_train: PositiveInt
    num_test: PositiveInt
    training: TranslationConfig
    seed: int
    """Draws the training volumes and the weights."""


def train_and_measure(config: VolumesConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Errors of voxels and of each layer's projection, PSNR and SSIM, on test volumes."""
    from safetensors.torch import save_file

    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.pipeline.store.measures import TEST, recorded
    from amalgam.tasks.imaging.volumes.synthetic import make_volumes
    from amalgam.tasks.imaging.volumes.translation import measured, train_translator

    volumes = make_volumes(config.num_train, config.shape, config.seed)
    network = train_translator(
        config.training,
        volumes,
        config.seed,
        log=work.log,
        resume=resume_state(work),
        save=saver(work),
        device=work.device,
    )
    save_file(network.cpu().state_dict(), work.out / "model.safetensors")
    numbers = measured(network, make_volumes(config.num_test, config.shape, TEST_SEED), work.device)
    identity = Network(
        kind="translator",
        method="with layer loss" if config.training.layer_weight else "voxels alone",
        settings={"layer weight": config.training.layer_weight} if config.training.layer_weight else {},
        seed=config.seed,
    )
    return recorded([Result(identity, TEST, None, name, value) for name, value in numbers.items()], work.out)


VOLUMES = Kind("volumes", train_and_measure, VolumesConfig, expect=Expect(60, 300_000))
