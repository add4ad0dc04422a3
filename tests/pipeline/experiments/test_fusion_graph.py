"""The whole chain of a partial-fusion experiment, built for real on the digits: what its records must say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.resuming import resume_state, saver
from amalgam.pipeline.engine.step import Step, ancestors
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.steps.fusion.fused import FusedConfig, finetune
from amalgam.pipeline.store.artifact import Record, read_curves, read_record, read_records
from amalgam.pipeline.store.checkpoints import load_model
from amalgam.pipeline.store.matchings import load_matching
from amalgam.pipeline.store.tables.rows import describe, read_rows
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.loading import normalise
from amalgam.tasks.scoring.logits import predict
from amalgam.tasks.tracing.capture import capture, sites
from amalgam.tasks.tracing.trace import trace

pytestmark = pytest.mark.slow
SMALL = {"seeds": 1, "members": 2, "epochs": 3, "widths": (20, 10), "probe_rows": 100, "finetune_share": 0.1}
METHODS = ("Identity", "PartialOT", "Ward", "FisherPruning")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Every step of a small experiment but its report, with their records."""
    root = tmp_path_factory.mktemp("root")
    experiment, unfinished = EXPERIMENTS["digits_partial_fusion"], SMALL | {"finetune_share": 0.0}
    grid = experiment(
        **unfinished, methods=METHODS, alphas=(0.0, 0.5, 1.0), first_weight=(0.0, 0.3, 1.0), rivals=("none",)
    )
    tuned = experiment(**SMALL, methods=("PartialOT",), alphas=(0.0, 0.5), first_weight=(0.3,))
    steps = [*grid.parents, *tuned.parents]
    outcome = run(steps, root, Local())
    return root, [(step, outcome.records[step.fingerprint]) for step in ancestors(steps)]


def of_kind(built, name: str) -> list[tuple[Step, Record]]:
    return [(step, record) for step, record in built[1] if step.name == name]


def fused(built, **wanted) -> list[tuple[Step, Record]]:
    return [
        (step, record)
        for step, record in of_kind(built, "fused")
        if all(
            getattr(step.config.method, key, getattr(step.config, key, None)) == value for key, value in wanted.items()
        )
    ]


def test_alpha_one_scores_as_the_logit_ensemble_and_costs_as_much(built):
    ensembles = {
        step.config.weights: record.metrics
        for step, record in of_kind(built, "ensemble")
        if step.config.kind == "logit ensemble"
    }
    points = fused(built, alpha=1.0)
    assert len(points) == 9
    for step, record in points:
        ensemble = ensembles[step.config.weights]
        assert record.metrics["test/nll"] == pytest.approx(ensemble["test/nll"], abs=1e-5)
        assert record.metrics["test/accuracy"] == ensemble["test/accuracy"]
        biases = 10  # The members' output layers share their places, so one bias vector stands for two.
        assert record.metrics["cost/nonzero_parameters"] == ensemble["cost/parameters"] - biases
        assert record.metrics["cost/nonzero_flops"] == ensemble["cost/flops"]


@pytest.mark.parametrize(("weight", "member"), [(1.0, 0), (0.0, 1)])
def test_all_weight_on_one_member_scores_as_that_member(built, weight, member):
    alone = next(r.metrics for s, r in of_kind(built, "evaluation") if s.config.member == member)
    for alpha in (0.0, 0.5, 1.0):
        for _, record in fused(built, alpha=alpha, weights=(weight, 1 - weight)):
            assert record.metrics["test/nll"] == pytest.approx(alone["test/nll"], abs=1e-4)


def test_a_larger_alpha_costs_more_and_alpha_zero_costs_one_member(built):
    member = of_kind(built, "evaluation")[0][1].metrics
    costs = [fused(built, alpha=a)[0][1].metrics["cost/nonzero_flops"] for a in (0.0, 0.5, 1.0)]
    assert costs[0] == member["cost/flops"]
    assert costs == sorted(set(costs))


def test_a_saved_network_scores_again_what_its_record_says(built):
    root, _ = built
    test = load(DataSpec(name="digits"), "test")
    for step, record in fused(built, alpha=0.5) + of_kind(built, "finetuned"):
        logits = predict(load_model(step.path(root)), test, np.arange(len(test)))
        accuracy = (logits.argmax(1) == test.labels).double().mean().item()
        assert accuracy == pytest.approx(record.metrics["test/accuracy"], abs=1e-6)


def test_fine_tuned_networks_keep_their_structural_zeros(built):
    root, _ = built
    for step, record in of_kind(built, "finetuned"):
        assert set(step.inputs) == {"network"}, "no member is loaded, and none traced, a second time"
        before = load_model(step.inputs["network"].path(root)).state_dict()
        after = load_model(step.path(root)).state_dict()
        stored = record.metrics["cost/parameters"] - record.metrics["cost/nonzero_parameters"]
        assert sum(int(((before[n] == 0) & (after[n] == 0)).sum()) for n in before) >= stored
        assert any(not torch.equal(before[n], after[n]) for n in before)


def test_staged_rows_are_the_activations_of_the_member_that_they_name(built):
    root, _ = built
    step, record = of_kind(built, "activations")[0]
    file = step.path(root) / "activations.parquet"
    info = describe(file)
    member = load_model(step.inputs["member"].path(root))
    assert info.provenance["member"] == step.inputs["member"].key
    assert info.num_rows == record.metrics["rows"] == SMALL["probe_rows"]
    images = load(DataSpec(name="digits"), "train")
    rows = next(read_rows(file, batch_size=50))
    x = normalise(images.batch(torch.from_numpy(rows.ids)))
    taken = capture(member, sites(member, trace(member, x[:2])), x)
    assert rows.sites.keys() == taken.keys()
    for group, values in rows.sites.items():
        np.testing.assert_allclose(values, taken[group].flatten(1).numpy(), atol=1e-5)
    np.testing.assert_array_equal(rows.labels, images.labels[torch.from_numpy(rows.ids)])


def test_ray_and_local_give_the_same_numbers(built, tmp_path, ray_here):
    last = {step.name: step for step, _ in built[1]}  # one of every kind, and behind it all that it reads
    outcome = run(list(last.values()), tmp_path, ray_here)
    assert outcome.records.keys() >= {step.fingerprint for step in last.values()}
    for step, record in built[1]:
        again = outcome.records.get(step.fingerprint)
        if again is None:
            continue
        weights = {name: facts.sha256 for name, facts in record.files.items() if name.endswith(".safetensors")}
        assert weights == {name: again.files[name].sha256 for name in weights}
        timeless = [{k: v for k, v in r.metrics.items() if k != "cost/latency_ms"} for r in (record, again)]
        assert timeless[0] == timeless[1]


def test_a_killed_training_goes_on_from_its_last_epoch_to_the_same_weights(built, tmp_path, ray_here):
    root, _ = built
    step, _ = of_kind(built, "member")[0]
    config = step.config.model_copy(update={"training": step.config.training.model_copy(update={"epochs": 4})})
    whole = replace(step, config=config)
    killed = replace(step, config=config, function="tests.pipeline.experiments.mishaps:train_and_be_killed_once")
    run([whole], root, Local())
    outcome = run([killed], tmp_path, ray_here)
    points = read_curves(killed.path(tmp_path))
    assert [point.step for point in points if point.metric == "train/loss"] == [1, 2, 3, 4]
    weights = [read_record(path).files["model.safetensors"] for path in (whole.path(root), killed.path(tmp_path))]
    assert weights[0] == weights[1]
    assert outcome.built == (killed.fingerprint,)


class Interrupted(Exception):
    """Stands for the end of a worker."""


class Short(Workspace):
    """A workspace whose user is interrupted when it logs its third epoch."""

    def log(self, metrics, step):
        if step == 3:
            raise Interrupted
        super().log(metrics, step)


@pytest.mark.usefixtures("one_thread")  # as the step had
def test_an_interrupted_fine_tuning_goes_on_from_its_last_epoch_to_the_same_weights(built, tmp_path):
    root, _ = built
    step = next(s for s, _ in of_kind(built, "finetuned") if isinstance(s.config.network, FusedConfig))
    inputs = {
        role: value.path(root) if isinstance(value, Step) else tuple(each.path(root) for each in value)
        for role, value in step.inputs.items()
    }
    places = {"out": tmp_path, "scratch": tmp_path, "data_root": None, "device": "cpu", "curves": tmp_path / "curves"}
    with pytest.raises(Interrupted):
        finetune(step.config, inputs, Short(**places))
    work = Workspace(**places)
    state = resume_state(work)
    assert len(state["history"]) == 2
    state["history"][0]["train/loss"] = 123.0  # logged again, unless the first epoch is trained again
    saver(work)(state)
    finetune(step.config, inputs, work)
    losses = [json.loads(line)["metrics"]["train/loss"] for line in work.curves.read_text().splitlines()]
    assert losses[2] == 123.0 and len(losses) == 2 + step.config.training.epochs
    whole, resumed = (load_model(folder).state_dict() for folder in (step.path(root), tmp_path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_matchings_do_not_depend_on_the_members_weights():
    one, two = (EXPERIMENTS["digits_partial_fusion"](**SMALL, first_weight=(weight,)) for weight in (0.2, 0.7))
    keys = [{s.key for s in ancestors([report]) if s.name == "matching"} for report in (one, two)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"alphas": (0.5, 1.5)}, "alpha"),
        ({"alphas": ()}, "alpha"),
        ({"members": 1}, "members"),
        ({"seeds": 0}, "seeds"),
        ({"first_weight": (1.2,)}, "first-weight"),
        ({"model": "resnet81"}, "resnet18"),
        ({"data": "minst"}, "mnist"),
        ({"model": "vgg11", "widths": (3,)}, "widths"),
        ({"data": "imagefolder:x"}, "num-classes"),
        ({"cost": "weihgts"}, "weights"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_planned(flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        EXPERIMENTS["partial_fusion"](**flags)


def test_a_probe_larger_than_the_data_is_refused_before_anything_runs(tmp_path):
    report = EXPERIMENTS["digits_partial_fusion"](**{**SMALL, "probe_rows": 5000})
    with pytest.raises(ValueError, match=r"5000 .*810"):
        run(list(report.parents), tmp_path, Local())
    assert not list(tmp_path.glob("member-*"))


def test_pictures_that_do_not_fit_the_network_are_refused_before_anything_runs(tmp_path):
    pixels, labels = np.random.default_rng(0).integers(0, 255, (60, 8, 8), np.uint8), np.arange(60) % 3
    arrays = {f"{part}_{what}": v for part in ("train", "test") for what, v in (("images", pixels), ("labels", labels))}
    np.savez(tmp_path / "grey.npz", **arrays)
    settings = {"data": f"npz:{tmp_path / 'grey.npz'}", "epochs": 1, "seeds": 1, "probe_rows": 10}
    settings |= {"methods": ("Identity",), "rivals": ("none",)}
    for flags, sentence in (
        ({"num_classes": 3}, "1 x 8 x 8 do not fit a network for 3 x 224 x 224"),
        ({"num_classes": 2, "channels": 1, "image_size": 8}, "there are 3 classes, but --num-classes is 2"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run([EXPERIMENTS["partial_fusion"](**settings, **flags)], tmp_path / "runs", Local())
        assert not list((tmp_path / "runs").glob("member-*"))
    fitting = EXPERIMENTS["partial_fusion"](**settings, num_classes=3, channels=1, image_size=8)
    assert run([fitting], tmp_path / "runs", Local()).records[fitting.fingerprint]


def test_networks_with_batch_norm_go_through_the_whole_chain(tmp_path):
    report = EXPERIMENTS["partial_fusion"](
        data="digits",
        model="resnet18",
        width=0.0625,
        members=2,
        epochs=1,
        seeds=1,
        alphas=(0.5, 1.0),
        probe_rows=100,
        cost="both",
        methods=("PartialOT",),
        rivals=("none",),
    )
    outcome = run([report], tmp_path, Local())
    metrics = {
        (record.config["method"].get("alpha"), record.config["recalibrated"]): record.metrics
        for record in outcome.records.values()
        if record.name == "fused"
    }
    ensemble = next(r.metrics for r in outcome.records.values() if r.config.get("kind") == "logit ensemble")
    assert metrics[1.0, False]["test/nll"] == pytest.approx(ensemble["test/nll"], abs=1e-5)
    assert metrics[0.5, True]["test/nll"] != metrics[0.5, False]["test/nll"]
    files = {path.suffix for path in report.path(tmp_path).iterdir()}
    assert {".png", ".html", ".csv", ".parquet", ".json"} <= files


def test_the_installed_command_on_ray_keeps_the_structural_zeros(tmp_path):
    """Run from elsewhere, where the package is found by its installation alone, as users do."""
    flags = "--members 2 --seeds 1 --epochs 1 --widths 20,10 --alphas 0.5 --probe-rows 100"
    command = [str(Path(sys.executable).with_name("amalgam")), "run", "digits_partial_fusion", *flags.split()]
    command += ["--methods", "PartialOT", "--rivals", "none", "--finetune-share", "0.2"]
    subprocess.run([*command, "--root", str(tmp_path / "runs")], cwd=tmp_path, check=True, capture_output=True)
    partial = [
        record.metrics["cost/nonzero_parameters"]
        for record in read_records(tmp_path / "runs")
        if record.name in ("fused", "finetuned")
        and record.config.get("network", record.config).get("method", {}).get("alpha") == 0.5
    ]
    assert len(partial) == 6 and len(set(partial)) == 1


def test_clusters_and_rivals_are_networks_of_one_members_size(built):
    root, _ = built
    member = of_kind(built, "evaluation")[0][1].metrics["cost/parameters"]
    rivals = of_kind(built, "rival")
    assert {step.config.rival for step, _ in rivals} == {"distilled", "distilled from fused", "from scratch"}
    clusters = [(step, record) for step, record in of_kind(built, "fused") if step.key.startswith("fused")]
    wards = [record for step, record in clusters if type(step.config.method).__name__ == "Ward"]
    for record in [record for _, record in rivals] + wards:
        assert record.metrics["cost/parameters"] == member
    matching = next(s for s, _ in of_kind(built, "matching") if type(s.config.methods[0]).__name__ == "Ward")
    coupling = load_matching(matching.config.methods[0], matching.path(root)).couplings()
    assert {group: found.width for group, found in coupling.items()} == {"layers.0": 20, "layers.2": 10}


@pytest.mark.parametrize("spoil", ["labels", "classes", "missing"])
def test_a_test_split_that_cannot_be_used_is_refused_before_anything_is_trained(tmp_path, spoil):
    digits = load(DataSpec(name="digits"), "train")
    pixels, labels = digits.batch(torch.arange(200)).squeeze(1).numpy(), digits.labels[:200].numpy()
    arrays = {"train_images": pixels, "train_labels": labels, "test_images": pixels, "test_labels": labels}
    if spoil == "missing":
        del arrays["test_images"]
    else:
        arrays["test_labels"] = labels + 20 if spoil == "labels" else labels * 0
    np.savez(tmp_path / "set.npz", **arrays)
    step = EXPERIMENTS["partial_fusion"](
        data=f"npz:{tmp_path / 'set.npz'}", channels=1, num_classes=10, image_size=8, seeds=1
    )
    with pytest.raises(ValueError, match=r"set\.npz"):
        run([step], tmp_path / "runs", Local())
    assert not [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
