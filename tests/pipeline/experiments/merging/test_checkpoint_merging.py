"""The checkpoints of one run, merged: what the rows say is what the library makes of the files."""

import pytest
import torch
from safetensors.torch import load_file

from amalgam import Average, merge
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.steps.merging.candidates import CheckpointBench
from amalgam.pipeline.store.tables.results import read_results
from amalgam.pipeline.tracking.history import read_history
from amalgam.tasks.merging.adapters import Adapter, products
from amalgam.tasks.merging.weights.providers import MWA, exponential_weights

SMALL = {"seeds": 1, "epochs": 4, "base_epochs": 2, "last": 3, "widths": (16, 12), "lora_rank": 2, "penalties": (2.0,)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The root of a small experiment, and its merges of whole and of adapted checkpoints with what they read."""
    root = tmp_path_factory.mktemp("root")
    report = EXPERIMENTS["checkpoint_merging"](**SMALL)
    run([report], root, Local())
    return root, [step for step in ancestors([report]) if step.name == "merged_checkpoints"]


def opened(built, place):
    root, steps = built
    work = Workspace(root, root, None, "cpu", root / "curves")
    folder = steps[place].inputs["run"].path(root)
    return CheckpointBench.opened(steps[place].config, folder, work), folder


@pytest.mark.slow
def test_every_rule_has_a_row_and_weights_follow_the_history(built):
    root, steps = built
    rows = {result.network.method for step in steps for result in read_results(step.path(root))}
    assert {"full last", "full best", "full uniform", "full EMA", "full MWA loss", "full MWA step"} <= rows
    assert {f"LoRA MWA loss, {space}" for space in ("product", "factors")} <= rows
    bench, folder = opened(built, 0)
    files = sorted(folder.glob("epoch-*.safetensors"))
    assert len(files) == 4
    losses = read_history(str(folder / "history.parquet"), "validation/nll")
    weights = MWA(penalty=2.0)([losses[step] for step in (2, 3, 4)])
    expected = merge(None, [load_file(file) for file in files[1:]], Average(weights=weights))
    found = bench.chosen()["MWA loss"]
    assert all(torch.equal(found.state[name], expected[name]) for name in expected)
    tested = next(r.value for r in read_results(steps[0].path(root)) if r.network.method == "full MWA loss")
    assert tested == bench.test(expected)


@pytest.mark.slow
def test_adapters_are_merged_in_both_spaces_on_top_of_the_base(built):
    bench, folder = opened(built, 1)
    last = load_file(sorted(folder.glob("epoch-*.safetensors"))[-1])
    updates = products(Adapter(last, bench.scaling))
    found = bench.chosen()["last"].state
    for name, update in updates.items():
        torch.testing.assert_close(found[name], bench.base[name] + update.float(), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(found[name], bench.base[name]) for name in bench.base if name not in updates)


def test_moving_averages_forget_geometrically():
    assert exponential_weights(3, 0.5) == pytest.approx((1 / 7, 2 / 7, 4 / 7))
    assert exponential_weights(3, 0) == (0, 0, 1)
    with pytest.raises(ValueError, match="decay"):
        exponential_weights(3, 1)


@pytest.mark.parametrize("flags", [{"last": 1}, {"last": 9, "epochs": 8}, {"seeds": 0}])
def test_bad_flags_are_refused_before_anything_runs(flags):
    with pytest.raises(ValueError, match="checkpoints to merge"):
        EXPERIMENTS["checkpoint_merging"](**flags)
