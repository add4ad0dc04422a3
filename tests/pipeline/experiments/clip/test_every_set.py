"""The paper's whole graph, from pictures in their published layouts to the report, on tiny stand-ins of every set."""

import json

import pandas as pd
import pytest
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score, f1_score

from amalgam.pipeline.store.tables.predictions import PREDICTIONS
from amalgam.pipeline.store.tables.results import RESULTS
from amalgam.tasks.clip.testing.test_sets import VALIDATION
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import ClipSpec
from tests.pipeline.cli.test_command_line import amalgam
from tests.pipeline.experiments.clip.test_clip_finetune import TINY
from tests.tasks.clip.stand_ins import (
    IMAGENET_FOLDERS,
    OTHER_CLASSES,
    write_fmow,
    write_imagenet,
    write_iwildcam,
    write_objectnet,
    write_other_classes,
)

pytestmark = pytest.mark.slow
ANIMALS = ("empty", "ox", "lion")
FLAGS = (
    *("--recipe", "paper", "--methods", "sae-mask", "--alphas", "1", "--epochs", "2", "--batch-size", "16"),
    *("--learning-rate", "0.01", "--warmup-steps", "1"),
    *("--k", "2", "--image-size", "16", "--mean", "0.5,0.5,0.5", "--std", "0.3,0.3,0.3", "--precision", "fp32"),
    *("--templates", "a photo of a {}.", "--validation-share", "0.25"),
)
ROWS = {
    "imagenet": {
        "imagenet": 9,
        "imagenet-v2": 6,
        "imagenet-r": 6,
        "imagenet-a": 4,
        "imagenet-sketch": 6,
        "objectnet": 8,
    },
    "iwildcam": {"iwildcam-id": 12, "iwildcam-ood": 12},
    "fmow": {"fmow-id": 20, "fmow-ood": 20},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The files of every set, a small architecture and its weights."""
    root = tmp_path_factory.mktemp("world")
    write_imagenet(root, dict.fromkeys(IMAGENET_FOLDERS, 2) | {"imagenet/train": 24, "imagenet/val": 3})
    write_objectnet(root / "objectnet-1.0", pictures=4)
    write_iwildcam(root / "iwildcam_v2.0", ANIMALS, {"train": 48, "id_test": 12, "test": 12})
    write_fmow(root / "fmow_v1.1", {"test": 2012, "test of the shift": 2016}, per_part=20)
    write_other_classes(root)
    (root / "tiny.json").write_text(json.dumps(TINY))
    save_file(build_clip(ClipSpec(architecture=TINY)).model.state_dict(), root / "weights.safetensors")
    return root


@pytest.mark.parametrize("suite", ROWS)
def test_every_set_is_read_tuned_on_and_scored_by_its_official_metric(suite, world, tmp_path):
    weights = ("--architecture", world / "tiny.json", "--checkpoint", world / "weights.safetensors")
    forgetting = ("--forgetting", ",".join(OTHER_CLASSES)) if suite == "iwildcam" else ()
    places = ("--data-root", world, "--root", tmp_path, "--local")
    assert amalgam("run", "clip_finetune", "--suite", suite, *FLAGS, *weights, *forgetting, *places) == 0
    assert list(tmp_path.glob("robustness-*/robustness.html"))
    folders = list(tmp_path.glob("path-*"))
    assert len(folders) == 2  # before and after fine-tuning
    for folder in folders:
        said, found = pd.read_parquet(folder / PREDICTIONS), pd.read_parquet(folder / RESULTS)
        counts = said.groupby("test_set").size().to_dict()
        assert {name: counts[name] for name in ROWS[suite]} == ROWS[suite]
        assert not forgetting or set(OTHER_CLASSES) < set(counts)
        scored = found[found.metric.isin(OFFICIAL) & found.test_set.notna()]
        assert set(scored.test_set) == set(counts) - {VALIDATION}
        for row in scored.itertuples():
            assert row.value == pytest.approx(OFFICIAL[row.metric](said[said.test_set == row.test_set]))


def _worst_region(said: pd.DataFrame) -> float:
    known = said[said.group != "Other"]
    return (known.label == known.prediction).groupby(known.group).mean().min()


def _macro_f1(said: pd.DataFrame) -> float:
    return f1_score(said.label, said.prediction, labels=said.label.unique(), average="macro", zero_division=0)


OFFICIAL = {
    "accuracy": lambda said: accuracy_score(said.label, said.prediction),
    "macro_f1": _macro_f1,
    "worst_group": _worst_region,
}
"""Each metric computed anew from the stored predictions, by scikit-learn and pandas."""
