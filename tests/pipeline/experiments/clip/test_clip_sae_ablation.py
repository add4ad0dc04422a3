"""The comparison of autoencoders: settings that differ in one thing, steps they share, and a table of their quality."""

from collections import Counter
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments.clip.graph import robust_graph
from amalgam.pipeline.experiments.clip.sae_ablation import BASE, clip_sae_ablation, one_thing_each
from amalgam.pipeline.experiments.clip.styled_world import SAESetting
from amalgam.pipeline.experiments.clip.variants import VARIANTS
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.reports.robustness.page import terminal_table
from amalgam.pipeline.reports.robustness.saes import SAES_STEM
from amalgam.pipeline.reports.robustness.table import main_rows
from amalgam.pipeline.store.artifact import read_record
from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_sae
from amalgam.tasks.data.loading import batches
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.metrics import QualityMeter, matched_cosines
from tests.pipeline.steps.clip_sweep import autoencoders, sweep

SEEDS, STRENGTHS = 2, (10.0, 100.0)
OTHERS = ("k 8", "expansion 2", "reference recipe", "raw inputs")


@pytest.fixture(scope="module")
def ablation():
    return clip_sae_ablation(seeds=SEEDS, strengths=STRENGTHS, ks=(8,), expansions=(2.0,))


def test_every_setting_differs_from_the_base_in_one_thing():
    base = SAESetting(k=4, expansion=4.0)
    tried = one_thing_each(base, ks=(2, 8), expansions=(2.0,), recipes=("reference",), inputs=("raw",))
    changed = [sum(asdict(base)[name] != value for name, value in asdict(one).items()) for one in tried.values()]
    assert changed == [0, 1, 1, 1, 1, 1] and next(iter(tried)) == BASE


def test_settings_share_all_that_comes_before_their_autoencoders(ablation):
    settings = 1 + len(OTHERS)
    assert Counter(step.name for step in ancestors([ablation])) == {
        "pretrained": SEEDS,
        "zero_shot": SEEDS,
        "features": SEEDS,
        "saes": SEEDS * settings,
        "tuned": SEEDS * (1 + settings * len(STRENGTHS)),
        "path": SEEDS * (2 + settings * len(STRENGTHS)),
        "sae_quality": SEEDS,
        "robustness": 1,
    }


def test_networks_of_two_settings_differ_in_their_autoencoder_alone(ablation):
    paths = {path.config.identity: path for path in ablation.inputs["paths"]}
    tuned = {
        network.method: path.inputs["after"][0]
        for network, path in paths.items()
        if (network.setting("strength"), network.seed) == (10, 0)
    }
    base = tuned[BASE]
    for name in OTHERS:
        other, inputs = tuned[name], tuned[name].identity["inputs"]
        assert other.config.model_copy(update={"sae": base.config.sae}) == base.config
        assert {role for role in inputs if inputs[role] != base.identity["inputs"][role]} == {"saes"}
        assert other.config.sae.normalised == other.inputs["saes"].config.normalised == (name != "raw inputs")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A report on two settings, one of them of raw features, and what was encoded for it."""
    root = tmp_path_factory.mktemp("runs")
    raw = replace(VARIANTS[BASE], saes=autoencoders(normalised=False))
    variants = {"ft": VARIANTS["ft"], BASE: VARIANTS[BASE], "raw inputs": raw}
    recipe = sweep(methods=tuple(variants), variants=variants, factors=(10.0,), alphas=(1.0,), sae_roles=("id", "seen"))
    report = robust_graph(recipe)
    run([report], root, Local())
    return report, recipe, root


@pytest.mark.slow
def test_qualities_are_those_of_the_metrics_on_test_images(built):
    report, recipe, root = built
    [step] = report.inputs["qualities"]
    classifier = load_classifier(step.inputs["classifier"].path(root))
    found, head = read_record(step.path(root)).metrics, classifier.head.weight.detach()
    for test_set in recipe.seeded(0).test_sets:
        images = open_source(test_set.source)
        [batch] = batches(images, range(len(images)), len(images))
        features = classifier.encoder(batch.images).detach()
        for (name, saes), place in zip(step.config.saes, step.inputs["saes"], strict=True):
            meters = [QualityMeter(read_sae(place.path(root), spec.name), head) for spec in saes.specs]
            for meter in meters:
                meter.update(unit_norm(features) if saes.normalised else features, batch.labels)
            results = [meter.result() for meter in meters]
            measures = ("fvu", "l0", "dead_share", "accuracy", "reconstruction_accuracy", "monosemanticity")
            for measure in (*measures, "similarity"):
                mean = sum(getattr(result, measure) for result in results) / len(results)
                assert found[f"{name}/{test_set.role}/{measure}"] == pytest.approx(mean, rel=1e-5)
            stability = matched_cosines(*(meter.sae.decoder.detach() for meter in meters)).mean().item()
            assert found[f"{name}/atoms/stability"] == pytest.approx(stability)


@pytest.mark.slow
def test_the_report_shows_how_good_autoencoders_are_wherever_it_is_read(built):
    report, _, root = built
    folder, [step] = report.path(root), report.inputs["qualities"]
    found, reported = read_record(step.path(root)).metrics, read_record(folder).metrics
    rows = {row["label"]: row for row in read_rows(folder, SAES_STEM)}
    assert list(rows) == [BASE, "raw inputs"]
    for name, row in rows.items():
        assert row["seen/fvu"] == found[f"{name}/seen/fvu"] == reported[f"sae/seen/fvu/{name}"]
        for file in ("robustness.md", "robustness.html"):
            text = (folder / file).read_text()
            assert f"{row['seen/fvu']:.3f}" in text
            assert f"{row['seen/monosemanticity']:.2f}" in text and f"{row['seen/similarity']:.2f}" in text
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(folder))
    assert "autoencoders" in capture.get() and max(map(len, capture.get().splitlines())) <= 80


@pytest.mark.slow
def test_a_report_without_averages_shows_every_way_once(built):
    rows = main_rows(read_rows(built[0].path(built[2]), "robustness"))
    assert [row["label"] for row in rows] == ["zero-shot", "ft", BASE, "raw inputs"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ks": (8, 8)}, "'k 8'"),
        ({"ks": (4,)}, "'k 4'"),
        ({"ks": (300,)}, "keeps more than the 256 latents"),
        ({"recipes": ("theirs",)}, "there is no recipe of autoencoders 'theirs'"),
        ({"inputs": ("rau",)}, "there is no kind of features 'rau': did you mean 'raw'"),
        ({"sae_seeds": 0}, "sae-seeds must be at least 1"),
        ({"world": "digit"}, "did you mean 'digits'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(flags, message):
    with pytest.raises(ValueError, match=message):
        clip_sae_ablation(**flags)
