"""Stage a member's activations on the probe: rows in Parquet, and a table of statistics per unit."""

from collections.abc import Mapping
from pathlib import Path

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.configs import ActivationsConfig
from amalgam.pipeline.steps.measures import Metrics
from amalgam.pipeline.steps.samples import Repeatable, example, open_pool, probe_indices
from amalgam.pipeline.store.checkpoints import load_model
from amalgam.pipeline.store.rows import RowsWriter
from amalgam.pipeline.store.rows_schema import RowsSchema
from amalgam.pipeline.store.unit_table import write_unit_table
from amalgam.tasks.tracing.capture import UnitSummary, as_rows, capture, sites
from amalgam.tasks.tracing.trace import trace

ROWS, UNITS = "activations.parquet", "units.parquet"


def stage_activations(config: ActivationsConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write `activations.parquet` and `units.parquet`; memory does not grow with the number of images."""
    images, pool, _ = open_pool(config.probe.sample, work.data_root)
    probe = Repeatable(images, probe_indices(config.probe, pool), config.batch_size, work.device)
    member = load_model(inputs["member"]).to(work.device)
    where = sites(member, trace(member, example(images, work.device)))
    first = capture(member, where, example(images, work.device), grid=config.grid)
    provenance = {"member": inputs["member"].name, "data": images.fingerprint, "split": "train"}
    shapes = {group: tuple(values.shape[1:]) for group, values in first.items()}
    summaries = {group: UnitSummary(shape[0]) for group, shape in shapes.items()}
    with RowsWriter(work.out / ROWS, RowsSchema(sites=shapes, dtype=config.dtype, provenance=provenance)) as writer:
        for batch in probe.batches():
            taken = capture(member, where, batch.images, grid=config.grid)
            for group, rows in as_rows(taken).items():
                summaries[group].update(rows)
            values = {group: tensor.flatten(1).cpu().numpy() for group, tensor in taken.items()}
            writer.write(batch.ids.numpy(), batch.labels.cpu().numpy(), "train", values)
    write_unit_table(work.out / UNITS, {g: s.table() for g, s in summaries.items()}, provenance)
    return {"rows": len(probe.indices), "data_fingerprint": images.fingerprint}
