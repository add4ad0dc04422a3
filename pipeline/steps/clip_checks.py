"""What can be refused before anything of a CLIP experiment runs: data or weights that are not there."""

from pathlib import Path

from amalgam.pipeline.steps.clip_configs import ContrastiveConfig, OpenedConfig, TunedConfig
from amalgam.pipeline.steps.pretrained_config import PretrainedConfig
from amalgam.tasks.data.sources import check_source


def check_labelled(config: TunedConfig | ContrastiveConfig, data_root: Path | None) -> None:
    """Raise ValueError unless the images to fine-tune on are there."""
    check_source(config.labelled.source, data_root)


def check_world(config: PretrainedConfig, data_root: Path | None) -> None:
    """Raise ValueError unless the pictures of the world are there."""
    for source in config.world.pretraining_sources(config.seed):
        check_source(source, data_root)


def check_weights(config: OpenedConfig, data_root: Path | None) -> None:
    """Raise ValueError, with the command that fetches them, unless the weights are on this machine."""
    from amalgam.pipeline.steps.backbones import weights_root  # here, not above: open_clip takes seconds to import
    from amalgam.tasks.models.clip import require_weights

    require_weights(config.clip, weights_root(data_root))
