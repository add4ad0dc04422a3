"""Train a translation from structure to flow, with and without the loss on layers, and measure it.

    loss = mean |found - wanted| + layer_weight * sum_l mean |P_l found - P_l wanted|

The adversarial and perceptual terms of the paper are left out: they need discriminators, and weights of VGG.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from amalgam.tasks.imaging.volumes.config import Shape, TranslationConfig
from amalgam.tasks.imaging.volumes.projection import project, projection_errors, projection_loss
from amalgam.tasks.imaging.volumes.synthetic import Volumes
from amalgam.tasks.imaging.volumes.unet import UNet3d
from amalgam.tasks.imaging.volumes.windows import cropped, sliding_window
from amalgam.tasks.training.epochs import Log, Save, State, run_epochs, silent
from amalgam.tasks.training.seeding import derived


def translator(config: TranslationConfig, seed: int) -> UNet3d:
    """The network before training; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return UNet3d(config.width, config.levels)


def translation_loss(found: Tensor, volumes: Volumes, layer_weight: float) -> Tensor:
    """The loss of translated volumes (b, 1, z, h, w)."""
    of_voxels = l1_loss(found, volumes.flow)
    return (
        of_voxels + layer_weight * projection_loss(found, volumes.flow, volumes.layers) if layer_weight else of_voxels
    )


def train_translator(
    config: TranslationConfig,
    volumes: Volumes,
    seed: int,
    *,
    log: Log = silent,
    resume: State | None = None,
    save: Save | None = None,
    device: str = "cpu",
) -> UNet3d:
    """A network trained on the volumes; a run cut short and resumed ends with the same weights."""
    run = _Run(config, volumes, seed, device)
    run_epochs(run, log=log, resume=resume, save=save)
    return run.network.eval()


@torch.no_grad()
def measured(
    networks: Sequence[UNet3d], volumes: Volumes, device: str = "cpu", window: Shape | None = None
) -> dict[str, float]:
    """Of the mean output of networks: error and PSNR of voxels, SSIM and errors of the layers' projections.

    Errors are mean absolute differences. Outputs are stitched of windows, where there is one.
    """
    from torchmetrics.functional.image import (  # here: it costs seconds
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    translators = [_stitched(network.to(device).eval(), window) for network in networks]
    one_by_one = [volumes[slice(place, place + 1)].structure.to(device) for place in range(len(volumes))]
    found = torch.cat(
        [torch.stack([translate(each) for translate in translators]).mean(0).cpu() for each in one_by_one]
    )
    errors = projection_errors(found, volumes.flow, volumes.layers)[1:]
    first, second = (project(each, volumes.layers)[:, 1:] for each in (found, volumes.flow))
    return {
        "voxel_error": l1_loss(found, volumes.flow).item(),
        "psnr": peak_signal_noise_ratio(found, volumes.flow, data_range=(-1.0, 1.0)).item(),
        "ssim": float(structural_similarity_index_measure(first, second, data_range=2.0)),  # type: ignore[arg-type]
        **{f"projection_error_layer_{place}": error for place, error in enumerate(errors.tolist(), start=1)},
    }


def _stitched(network: UNet3d, window: Shape | None) -> Callable[[Tensor], Tensor]:
    if window is None:
        return network
    depth, height, width = ((side + 1) // 2 for side in window)
    return partial(sliding_window, network, window=window, stride=(depth, height, width))


@dataclass
class _Run:
    """A training run; see `tasks.training.epochs.Run`."""

    config: TranslationConfig
    volumes: Volumes
    seed: int
    device: str
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = translator(self.config, self.seed).to(self.device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), self.config.learning_rate, betas=(0.5, 0.999))
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, self.config.epochs)

    @property
    def is_finished(self) -> bool:
        return len(self.history) >= self.config.epochs

    def advance(self) -> None:
        self.network.train()
        generator = torch.Generator().manual_seed(derived(self.seed, len(self.history)))
        order = torch.randperm(len(self.volumes), generator=generator)
        batches = (self.volumes[places] for places in order.split(self.config.batch_size))
        losses = [self._step(cropped(batch, self.config.window, generator)) for batch in batches]
        self.schedule.step()
        self.history.append({"loss": sum(losses) / len(losses)})

    def _step(self, batch: Volumes) -> float:
        batch = batch.each(lambda part: part.to(self.device))
        loss = translation_loss(self.network(batch.structure), batch, self.config.layer_weight)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def state(self) -> State:
        parts = {name: getattr(self, name).state_dict() for name in ("network", "optimiser", "schedule")}
        return {**parts, "history": self.history}

    def restore(self, state: State) -> None:
        for name in ("network", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.history = list(state["history"])
