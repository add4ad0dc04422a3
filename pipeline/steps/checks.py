"""What can be refused before anything runs: data that is not there, a probe that is too large."""

from pathlib import Path

from amalgam.pipeline.steps.configs import ActivationsConfig, MemberConfig
from amalgam.tasks.data.catalogue import check


def check_member(config: MemberConfig, data_root: Path | None) -> None:
    """Raise ValueError unless the data set's files are there."""
    check(config.sample.data, data_root)


def check_pictures(config: MemberConfig, data_root: Path | None) -> None:
    """Raise ValueError unless the network fits the data set's pictures and classes."""
    from amalgam.pipeline.steps.samples import open_pool, require_fit  # here, not above: a plan must not import torch

    images, _, _ = open_pool(config.sample, data_root)
    require_fit(images, config.model)


def check_probe(config: ActivationsConfig, data_root: Path | None) -> None:
    """Raise ValueError unless the data set is large enough for the probe."""
    from amalgam.pipeline.steps.samples import open_pool, probe_indices  # here, not above: a plan must not import torch

    _, pool, _ = open_pool(config.probe.sample, data_root)
    probe_indices(config.probe, pool)
