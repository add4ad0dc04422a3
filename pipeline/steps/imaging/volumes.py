"""Train a translation of layered volumes, measure it on others, and measure several of them as an ensemble."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt, model_validator

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.imaging.volumes.config import Shape, TranslationConfig
from amalgam.tasks.scoring.results import Network, Result

if TYPE_CHECKING:
    from amalgam.tasks.imaging.volumes.synthetic import Volumes
    from amalgam.tasks.imaging.volumes.unet import UNet3d

TEST_SEED = 10**6  # no training volume is drawn from it
TEST_SHARE = 0.2  # of real volumes
BYTES, MOST_BYTES = 20, 1e11  # of a voxel: structure, flow and three layers in float32
MODEL, OCTA500 = "model.safetensors", "octa500:"


class VolumesConfig(Config):
    """One translator of volumes."""

    data: str = "synthetic"
    """"synthetic", or "octa500:PATH"."""
    shape: Shape
    num_train: PositiveInt
    num_test: PositiveInt
    training: TranslationConfig
    seed: int
    """Draws the training volumes and the weights."""

    @model_validator(mode="after")
    def _volumes_fit(self) -> "VolumesConfig":
        self.training.check(self.shape)
        if (cost := BYTES * (self.num_train + self.num_test) * math.prod(self.shape)) > MOST_BYTES:
            raise ValueError(f"volumes of {self.shape} would take {cost / 1e9:.3g} GB: choose fewer or smaller ones")
        return self

    @property
    def identity(self) -> Network:
        """What is measured, for the table of results."""
        weight = self.training.layer_weight
        method = "with layer loss" if weight else "voxels alone"
        return Network(
            kind="translator", method=method, settings={"layer weight": weight} if weight else {}, seed=self.seed
        )


def train_and_measure(config: VolumesConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Errors of voxels and of each layer's projection, PSNR and SSIM, on test volumes."""
    from safetensors.torch import save_file

    from amalgam.pipeline.engine.resuming import resume_state, saver
    from amalgam.tasks.imaging.volumes.translation import train_translator

    train, test = _volumes(config, work.data_root)
    network = train_translator(
        config.training,
        train,
        config.seed,
        log=work.log,
        resume=resume_state(work),
        save=saver(work),
        device=work.device,
    )
    save_file(network.cpu().state_dict(), work.out / MODEL)
    return _recorded(config, [network], test, work)


def measure_ensemble(config: VolumesConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """The same of the mean output of the translators in `members`, which differ by their seeds."""
    from safetensors.torch import load_file

    from amalgam.tasks.imaging.volumes.translation import translator

    networks = [translator(config.training, 0) for _ in inputs["members"]]
    for network, folder in zip(networks, inputs["members"], strict=True):
        network.load_state_dict(load_file(folder / MODEL))
    return _recorded(config, networks, _volumes(config, work.data_root)[1], work)


def _recorded(config: VolumesConfig, networks: "Sequence[UNet3d]", test: "Volumes", work: Workspace) -> Metrics:
    from amalgam.pipeline.store.measures import TEST, recorded
    from amalgam.tasks.imaging.volumes.translation import measured

    identity = config.identity
    if len(networks) > 1:
        identity = identity.model_copy(update={"kind": "ensemble", "method": f"{identity.method}, ensemble"})
    numbers = measured(networks, test, work.device, config.training.window)
    return recorded([Result(identity, TEST, None, name, value) for name, value in numbers.items()], work.out)


def _volumes(config: VolumesConfig, data_root: Path | None) -> "tuple[Volumes, Volumes]":
    """Training and test volumes."""
    from amalgam.tasks.imaging.volumes.folders import split_ids
    from amalgam.tasks.imaging.volumes.octa500 import read_volumes
    from amalgam.tasks.imaging.volumes.synthetic import make_volumes

    if not config.data.startswith(OCTA500):
        train = make_volumes(config.num_train, config.shape, config.seed)
        return train, make_volumes(config.num_test, config.shape, TEST_SEED)
    root = _folder(config, data_root)
    train_ids, test_ids = split_ids(root, TEST_SHARE)
    return (
        read_volumes(root, train_ids[: config.num_train], config.shape),
        read_volumes(root, test_ids[: config.num_test], config.shape),
    )


def _folder(config: VolumesConfig, data_root: Path | None) -> Path:
    return (data_root or Path()) / Path(config.data.removeprefix(OCTA500)).expanduser()


def check_volumes(config: VolumesConfig, data_root: Path | None) -> None:
    """Raise ValueError unless every volume is there and whole."""
    from amalgam.tasks.imaging.volumes.folders import split_ids

    if config.data.startswith(OCTA500):
        if not (folder := _folder(config, data_root)).is_dir() or config.data == OCTA500:
            raise ValueError(f"{config.data!r} names no folder: give octa500:PATH, relative to --data-root or absolute")
        split_ids(folder, TEST_SHARE)
    elif config.data != "synthetic":
        raise ValueError(f"--data is synthetic or octa500:PATH, got {config.data!r}")


VOLUMES = Kind("volumes", train_and_measure, VolumesConfig, version=2, check=check_volumes, expect=Expect(60, 300_000))
VOLUMES_ENSEMBLE = Kind("volumes_ensemble", measure_ensemble, VolumesConfig, version=2, expect=Expect(5, 10_000))
