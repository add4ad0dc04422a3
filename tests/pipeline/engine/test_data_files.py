"""What is built of files is built anew when they change, and what reads none of them is not."""

import numpy as np
import pytest

from amalgam.pipeline.cli.flags import make_step
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments.clip.styles import clip_styles
from amalgam.pipeline.experiments.fusion.partial_fusion import partial_fusion

pytestmark = pytest.mark.slow

TINY = {"num_classes": 2, "image_size": 8, "seeds": 1, "alphas": (0.0,), "widths": (4,), "epochs": 1, "probe_rows": 8}


def write_arrays(root, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    np.savez(root / "mine.npz", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)


def plan(root, **settings):
    return make_step(partial_fusion, {"data": "npz:mine.npz", **TINY, **settings}, root)


def test_steps_that_read_changed_files_are_built_anew(tmp_path):
    write_arrays(tmp_path, 0)
    report = plan(tmp_path, model="mlp")
    first = run([report], tmp_path / "runs", Local(), data_root=tmp_path)
    assert plan(tmp_path, model="mlp").fingerprint == report.fingerprint
    write_arrays(tmp_path, 1)
    changed = plan(tmp_path, model="mlp")
    second = run([changed], tmp_path / "runs", Local(), data_root=tmp_path)
    assert not second.cached and len(second.built) == len(first.built)
    said = [{record.metrics.get("data_fingerprint") for record in each.records.values()} for each in (first, second)]
    assert said[0] & said[1] <= {None}
    members = [r for each in (first, second) for r in each.records.values() if r.name == "member"]
    assert len({r.data["npz:mine.npz"] for r in members}) == 2


def test_only_what_reads_a_set_depends_on_its_files(tmp_path):
    settings = {"natural": ("npz:mine.npz",), "seeds": 1}
    plans = []
    for seed in (0, 1):
        write_arrays(tmp_path, seed)
        plans.append({step.key for step in ancestors([make_step(clip_styles, settings, tmp_path)])})
    kinds = {key.partition("-")[0] for key in plans[0] - plans[1]}
    assert kinds == {"path", "explanation", "robustness"}  # what is explained is chosen by the path


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_sets_known_by_name_leave_every_fingerprint_as_it_was(data, tmp_path):
    assert make_step(partial_fusion, {"data": data}, tmp_path).fingerprint == partial_fusion(data=data).fingerprint
