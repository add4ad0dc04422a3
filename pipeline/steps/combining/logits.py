"""Stage a member's logits on validation and test images: rows in Parquet."""

from collections.abc import Mapping
from pathlib import Path

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.data.splits import SampleConfig

VALIDATION, TEST = "validation", "test"


class LogitsConfig(Config):
    """Logits of one member."""

    sample: SampleConfig
    """Whose validation images combiners may be fitted on; test images are of the same set."""
    family: str
    """What the member is one of, such as its architecture."""


def stage_logits(config: LogitsConfig, inputs: Mapping[str, Path], work: Workspace) -> Metrics:
    """Write `logits.parquet`."""
    import numpy as np
    import torch

    from amalgam.pipeline.store.checkpoints import load_model
    from amalgam.pipeline.store.tables.logits import Logits, write_logits
    from amalgam.tasks.data.images import load
    from amalgam.tasks.data.opening import open_pool
    from amalgam.tasks.scoring.logits import predict

    train, _, held_out = open_pool(config.sample, work.data_root)
    test = load(config.sample.data, "test", work.data_root)
    member = load_model(inputs["member"]).to(work.device)
    splits, data = {}, {}
    for name, images, chosen in ((VALIDATION, train, held_out), (TEST, test, np.arange(len(test)))):
        ids = torch.as_tensor(chosen, dtype=torch.int64)
        values = predict(member, images, ids, device=work.device)
        splits[name] = Logits(ids, images.labels[ids], values, images.names_of_groups(ids))
        data[name] = images.fingerprint
    write_logits(work.out, inputs["member"].name, config.family, splits, data)
    return {"rows": sum(len(one.ids) for one in splits.values()), "data_fingerprint": data[VALIDATION]}


STAGED_LOGITS = Kind("logits", stage_logits, LogitsConfig, expect=Expect(1, 200_000))
