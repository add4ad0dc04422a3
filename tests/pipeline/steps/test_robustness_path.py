"""A path between two classifiers is tested whole: file, scores and summary say the same."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from amalgam.pipeline.engine.data_digests import check_data
from amalgam.pipeline.engine.workspace import NOTES, Workspace
from amalgam.pipeline.reports.robustness.config import WARNING
from amalgam.pipeline.steps.clip.path import PathConfig, evaluate_path
from amalgam.pipeline.steps.clip.saes import ChosenSAE
from amalgam.pipeline.store.clip_checkpoints import ClassifierInfo, key_of, save_classifier, save_clip, save_sae
from amalgam.pipeline.store.tables.predictions import PREDICTIONS, read_predictions
from amalgam.pipeline.store.tables.results import read_results
from amalgam.tasks.clip.finetuning.drift import frozen
from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.clip.zero_shot import Classifier, Head, zero_shot_head
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.loading import batches
from amalgam.tasks.data.opening import open_labelled, open_source
from amalgam.tasks.data.sources import DIGIT_NAMES, PAIR_NAMES, LabelledConfig, Stored, StyledPairs
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.sae.autoencoder import initial
from amalgam.tasks.sae.config import SAEInfo, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from amalgam.tasks.scoring.logits import predict, score
from amalgam.tasks.scoring.metrics import METRICS, value
from amalgam.tasks.scoring.results import Network
from amalgam.tasks.training.averaging import mean_state
from tests.tasks.clip.worlds import spec

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = spec(words=("the", "digits", "a", "kind", *DIGIT_NAMES))
TEMPLATES = ("the digits {}",)


def pairs(style: str = "plain", count: int = 120, **settings) -> StyledPairs:
    return StyledPairs(glyphs=DataSpec(name="digits"), style=style, num_images=count, size=16, **settings)


LABELLED = LabelledConfig.separable(pairs(count=300, split="train"), 0.4, seed=3)
LEFT = tuple(tuple(range(10 * digit, 10 * digit + 10)) for digit in range(10))
TEST_SETS = (
    TestSet(name="plain", role="id", source=pairs()),
    TestSet(name="bold", role="seen", source=pairs("bold")),
    TestSet(name="negative", role="seen", source=pairs("negative"), metric="macro_f1"),
    TestSet(name="kinds", role="forgetting", source=pairs("bold", seed=5), templates=("a kind {}",)),
)
CONFIG = PathConfig(
    labelled=LABELLED,
    test_sets=TEST_SETS,
    alphas=(0.0, 0.5, 1.0),
    sae=ChosenSAE(name="small"),
    identity=Network(kind="classifier", method="l2", settings={"strength": 30.0}, seed=7),
)


def moved(classifier: Classifier, seed: int) -> Classifier:
    draw, other = torch.Generator().manual_seed(seed), frozen(classifier)
    for parameter in other.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return other


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A backbone, its zero-shot classifier, three others of the same start, and an autoencoder."""
    root, clip = tmp_path_factory.mktemp("inputs"), build_clip(SPEC)
    before = Classifier(clip.image_tower, zero_shot_head(clip, PAIR_NAMES, TEMPLATES))
    about = ClassifierInfo(clip=SPEC, class_names=PAIR_NAMES, templates=TEMPLATES, backbone=key_of(clip))
    classifiers = {"before": before} | {f"after{seed}": moved(before, seed) for seed in (1, 2, 3)}
    for name, classifier in classifiers.items():
        (root / name).mkdir()
        save_classifier(classifier, about, root / name)
    (root / "backbone").mkdir()
    save_clip(clip, SPEC, root / "backbone")
    info = SAEInfo(width=16, backbone=about.backbone, num_latents=40, sparsity=TopK(k=3))
    save_sae(initial(info, SAETrainConfig(), torch.zeros(16), seed=0), root / "saes" / "small")
    return root, classifiers


def workspace(out) -> Workspace:
    out.mkdir(exist_ok=True)
    return Workspace(out, out, None, "cpu", out / "curves.jsonl")


def inputs(root, *after: str) -> dict:
    return {
        "before": root / "before",
        "after": tuple(root / name for name in after),
        "backbone": root / "backbone",
        "sae": root / "saes",
    }


@pytest.fixture(scope="module")
def walked(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("path")
    return evaluate_path(CONFIG, inputs(folders[0], "after1"), workspace(out)), out


def test_metrics_recomputed_from_the_file_are_those_reported(walked):
    metrics, out = walked
    found = {
        (answers.test_set, answers.network): answers.predictions for answers in read_predictions(out / PREDICTIONS)
    }
    assert len(found) == 3 * (1 + len(TEST_SETS))
    for (test_set, network), said in found.items():
        for name in ("accuracy", "nll", "calibration_error"):
            place = test_set if test_set == "validation" else f"set/{test_set}"
            assert metrics[f"{place}/{name}@{network}"] == value(METRICS[name], said)
    of_set = value(METRICS["macro_f1"], found["negative", "alpha=0.5"])
    assert metrics["set/negative/macro_f1@alpha=0.5"] == of_set


def test_the_ends_score_as_the_networks_themselves(walked, folders):
    metrics, _ = walked
    for test_set in TEST_SETS[:3]:
        images = open_source(test_set.source)
        for network, name in (("alpha=0", "before"), ("alpha=1", "after1")):
            alone = score(predict(folders[1][name].eval(), images, range(len(images))), images.labels, 100)
            for metric in ("accuracy", "nll"):
                assert metrics[f"set/{test_set.name}/{metric}@{network}"] == pytest.approx(alone[metric], abs=1e-6)


def test_a_role_is_the_unweighted_mean_of_its_sets(walked):
    metrics, _ = walked
    for network in ("alpha=0", "alpha=0.5", "alpha=1"):
        of_sets = [metrics[f"set/{name}/accuracy@{network}"] for name in ("bold", "negative")]
        assert metrics[f"seen/accuracy@{network}"] == pytest.approx(sum(of_sets) / 2)
        assert metrics[f"id/accuracy@{network}"] == metrics[f"set/plain/accuracy@{network}"]


def test_validation_is_what_fine_tuning_held_out(walked):
    _, out = walked
    said = next(read_predictions(out / PREDICTIONS)).predictions
    images, _, held_out = open_labelled(LABELLED)
    assert said.ids.tolist() == held_out.tolist() and torch.equal(said.labels, images.labels[said.ids])


def test_a_head_of_words_belongs_to_the_backbone(walked, folders):
    _, out = walked
    clip, images = build_clip(SPEC), open_source(TEST_SETS[3].source)
    head = zero_shot_head(clip, images.class_names, TEST_SETS[3].templates)
    expected = predict(Classifier(frozen(folders[1]["after1"].encoder), head), images, range(len(images)))
    said = {
        answers.network: answers.predictions
        for answers in read_predictions(out / PREDICTIONS)
        if answers.test_set == "kinds"
    }
    assert torch.equal(said["alpha=1"].classes, expected.argmax(1))


def test_results_have_intervals_and_gains_over_the_first_network(walked):
    _, out = walked
    values = {(row.measure, row.network.setting("alpha")): row for row in read_results(out)}
    gains = {key: row for key, row in values.items() if row.metric == "accuracy_gain"}
    assert len(gains) == 3 * (len(TEST_SETS) + 4)  # every test set, and the means over each role
    for (measure, alpha), gain in gains.items():
        row, first = (values[measure.removesuffix("_gain"), a] for a in (alpha, 0.0))
        assert row.low <= row.value <= row.high
        assert gain.value == pytest.approx(row.value - first.value)
        assert alpha or gain.low == gain.high == 0


def test_results_say_whose_they_are(walked):
    networks = {row.network for row in read_results(walked[1])}
    assert {(network.method, network.setting("strength"), network.seed) for network in networks} == {("l2", 30.0, 7)}
    assert {network.setting("alpha") for network in networks} == set(CONFIG.alphas)


def test_drift_is_that_of_the_tuned_network(walked):
    metrics, _ = walked
    assert 0 < metrics["drift/cka@alpha=1"] < 1 and 0 < metrics["drift/jaccard@alpha=1"] < 1
    assert metrics["drift/added@alpha=1"] == metrics["drift/removed@alpha=1"] > 0
    assert metrics["set/bold/drift_fvu_before@alpha=1"] != metrics["drift/fvu_before@alpha=1"]
    assert all(math.isfinite(number) for number in metrics.values() if not isinstance(number, str))


def test_zero_shot_alone_is_a_path_of_one(folders, walked, tmp_path):
    config = CONFIG.model_copy(update={"alphas": (0.0,)})
    metrics = evaluate_path(config, inputs(folders[0], "before"), workspace(tmp_path))
    for name, number in walked[0].items():
        if name.endswith("@alpha=0"):
            assert metrics[name] == number
    assert metrics["drift/cka@alpha=0"] == pytest.approx(1)


def test_drift_is_from_the_frozen_network_though_it_is_not_on_the_path(folders, walked, tmp_path):
    config = CONFIG.model_copy(update={"alphas": (1.0,), "test_sets": TEST_SETS[:1]})
    metrics = evaluate_path(config, inputs(folders[0], "after1"), workspace(tmp_path))
    assert metrics["drift/cka@alpha=1"] == walked[0]["drift/cka@alpha=1"]
    unmeasured = evaluate_path(
        config.model_copy(update={"drift_images": 0}), inputs(folders[0], "after1"), workspace(tmp_path)
    )
    assert unmeasured == {name: number for name, number in metrics.items() if "drift" not in name}


def test_the_path_of_several_networks_ends_in_their_soup(folders, tmp_path):
    root, classifiers = folders
    config = CONFIG.model_copy(update={"test_sets": TEST_SETS[:1], "alphas": (0.0, 1.0)})
    ways = {
        kind: evaluate_path(
            config.model_copy(update={"soup": kind}),
            inputs(root, "after1", "after2", "after3"),
            workspace(tmp_path / kind),
        )
        for kind in ("uniform", "greedy")
    }
    images, _, held_out = open_labelled(LABELLED)
    alone = [classifiers[f"after{seed}"] for seed in (1, 2, 3)]
    best = max(score(predict(one, images, held_out), images.labels[held_out], 100)["accuracy"] for one in alone)
    assert ways["greedy"]["validation/accuracy@alpha=1"] >= best - 1e-6  # scores are float32
    uniform = frozen(alone[0])
    uniform.load_state_dict(mean_state([one.state_dict() for one in alone]))
    plain = open_source(TEST_SETS[0].source)
    expected = score(predict(uniform, plain, range(len(plain))), plain.labels, 100)
    assert ways["uniform"]["id/accuracy@alpha=1"] == pytest.approx(expected["accuracy"], abs=1e-6)
    assert ways["uniform"]["id/accuracy@alpha=0"] == ways["greedy"]["id/accuracy@alpha=0"]


def test_pictures_in_files_bring_their_groups_and_the_number_skipped(folders, tmp_path):
    for domain in ("day", "night"):
        for i, name in enumerate(PAIR_NAMES):
            (tmp_path / "wild" / domain / f"{i:02d} {name}").mkdir(parents=True)
            Image.new("RGB", (20, 20), (2 * i, i, 90)).save(tmp_path / "wild" / domain / f"{i:02d} {name}" / "1.png")
    (tmp_path / "wild" / "night" / "07 zero seven" / "1.png").write_bytes(b"no picture")
    data = DataSpec(name="domains:wild", image_size=16, skip_damaged=True)
    wild = TestSet(name="wild", role="natural", source=Stored(data=data), metric="worst_group")
    work = replace(workspace(tmp_path / "out"), data_root=tmp_path)
    config = CONFIG.model_copy(update={"test_sets": (wild,), "alphas": (0.0,)})
    metrics = evaluate_path(config, inputs(folders[0]), work)
    said = list(read_predictions(work.out / PREDICTIONS))[-1].predictions
    hits = (said.labels == said.classes).double()
    by_domain = [hits[said.groups == group].mean().item() for group in (0, 1)]
    assert metrics["set/wild/worst_group@alpha=0"] == pytest.approx(min(by_domain))
    assert (metrics["set/wild/skipped"], len(said.ids), said.group_names) == (1, 199, ("day", "night"))


def test_bad_paths_are_refused(folders, tmp_path):
    root, _ = folders
    with pytest.raises(ValueError, match="backbone"):
        given = {role: place for role, place in inputs(root, "after1").items() if role != "backbone"}
        evaluate_path(CONFIG, given, workspace(tmp_path))
    assert not (tmp_path / PREDICTIONS).exists()
    for alphas, message in (((), r"\(\)"), ((0.5, 0.0), r"\(0\.5, 0\.0\)"), ((0.0, 1.5), r"1\.5")):
        with pytest.raises(ValueError, match=message):
            PathConfig(labelled=LABELLED, test_sets=TEST_SETS, alphas=alphas)
    with pytest.raises(ValueError, match="'validation'"):
        PathConfig(labelled=LABELLED, test_sets=(TestSet(name="validation", role="id", source=pairs()),))
    absent = TestSet(name="usps", role="natural", source=StyledPairs(glyphs=DataSpec(name="usps"), num_images=9))
    with pytest.raises(ValueError, match="'usps'"):
        check_data(PathConfig(labelled=LABELLED, test_sets=(absent,)), tmp_path)


def test_pictures_of_a_test_set_that_are_prepared_wrongly_are_noticed_and_reported(tmp_path):
    """Grey levels around one half, told apart by a head that saw them scaled by one half."""
    draw = np.random.default_rng(0)
    labels = np.arange(80) % 2
    pixels = (115 + 25 * labels[:, None, None, None] + draw.integers(-9, 9, (80, 16, 16, 3))).astype(np.uint8)
    np.savez(
        tmp_path / "grey.npz",
        **{f"{p}_{n}": v for p in ("train", "test") for n, v in (("images", pixels), ("labels", labels))},
    )
    clip = build_clip(SPEC)
    right, wrong = (DataSpec(name="npz:grey.npz", mean=mean, std=std) for mean, std in ((0.5, 0.5), (0.0, 0.1)))
    images = load(right, "train", tmp_path)
    with torch.no_grad():
        features = clip.encode_image(next(batches(images, range(80), 80)).images)
    features = features / features.norm(dim=1, keepdim=True)
    dark, bright = (features[images.labels == label].mean(0) for label in (0, 1))
    between, middle = bright - dark, (dark + bright) / 2
    direction = between - middle * (between @ middle) / (middle @ middle)  # along which the middle has no component
    head = Head(16, 2)
    head.weight.data, head.bias.data = torch.stack([-direction, direction]), torch.zeros(2)
    about = ClassifierInfo(clip=SPEC, class_names=("dark", "bright"), templates=TEMPLATES, backbone=key_of(clip))
    (tmp_path / "before").mkdir()
    save_classifier(Classifier(clip.image_tower, head), about, tmp_path / "before")
    found = {}
    for name, data in (("right", right), ("wrong", wrong)):
        config = PathConfig(
            labelled=LabelledConfig(source=Stored(data=right, split="train")),
            test_sets=(TestSet(name="grey", role="natural", source=Stored(data=data)),),
            alphas=(0.0,),
            compare_preparations=True,
        )
        (tmp_path / name).mkdir()
        work = Workspace(tmp_path / name, tmp_path / name, tmp_path, "cpu", tmp_path / name / "curves.jsonl")
        found[name] = evaluate_path(config, {"before": tmp_path / "before"}, work)
    assert found["right"]["prepared/grey/given"] > 0.9 > 0.7 > found["wrong"]["prepared/grey/given"]
    assert found["wrong"]["prepared/grey/one half"] == found["right"]["prepared/grey/given"]
    assert not (tmp_path / "right" / NOTES).exists()
    assert (tmp_path / "wrong" / NOTES).read_text().startswith(WARNING)
