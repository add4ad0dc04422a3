"""Stage a member's activations on the probe: rows in Parquet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.data.splits import ProbeConfig

StageDtype = Literal["float16", "float32"]


class ActivationsConfig(Config):
    """Activations of one member on the probe."""

    probe: ProbeConfig
    grid: int = Field(default=2, ge=1)
    """Feature maps are pooled to at most grid x grid positions."""
    dtype: StageDtype = "float32"
    """How activations are stored."""
    with_influence: bool = False
    """Whether to store, too, how much the member's prediction depends on each unit."""
    batch_size: int = Field(default=256, ge=1)
    """Images per forward pass; it sets how sums are rounded."""


def stage_activations(config: ActivationsConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write `activations.parquet`; memory does not grow with the number of images."""
    from safetensors.torch import save

    from amalgam.pipeline.store.checkpoints import load_model
    from amalgam.pipeline.store.tables.activations import INFLUENCE, ROWS
    from amalgam.pipeline.store.tables.rows_schema import RowsSchema
    from amalgam.pipeline.store.tables.rows_writer import RowsWriter
    from amalgam.tasks.data.loading import Repeatable, example
    from amalgam.tasks.data.opening import open_pool
    from amalgam.tasks.fusion.methods.pruning.influence import influence
    from amalgam.tasks.tracing.capture import capture, sites
    from amalgam.tasks.tracing.trace import trace

    images, pool, _ = open_pool(config.probe.sample, work.data_root)
    probe = Repeatable(images, config.probe.indices(pool), config.batch_size, work.device)
    member = load_model(inputs["member"]).to(work.device)
    where = sites(member, trace(member, example(images, work.device)))
    first = capture(member, where, example(images, work.device), grid=config.grid)
    provenance = {"member": inputs["member"].name, "data": images.fingerprint, "split": "train"}
    shapes = {group: tuple(values.shape[1:]) for group, values in first.items()}
    with RowsWriter(work.out / ROWS, RowsSchema(sites=shapes, dtype=config.dtype, provenance=provenance)) as writer:
        for batch in probe.batches():
            taken = capture(member, where, batch.images, grid=config.grid)
            values = {group: tensor.flatten(1).cpu().numpy() for group, tensor in taken.items()}
            writer.write(batch.ids.numpy(), batch.labels.cpu().numpy(), "train", values)
    if config.with_influence:
        (work.out / INFLUENCE).write_bytes(save(influence(member, where, probe)))
    return {"rows": len(probe.indices), "data_fingerprint": images.fingerprint}


def check_probe(config: ActivationsConfig, data_root: Path | None) -> None:
    """Raise ValueError unless the data set is large enough for the probe."""
    from amalgam.tasks.data.opening import open_pool

    _, pool, _ = open_pool(config.probe.sample, data_root)
    config.probe.indices(pool)


ACTIVATIONS = Kind(
    "activations",
    stage_activations,
    ActivationsConfig,
    version=4,
    slow_check=check_probe,
    expect=Expect(2, 4_000_000),
)
