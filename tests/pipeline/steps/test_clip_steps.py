"""The steps from a backbone to fine-tuned classifiers, as a sweep runs them."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch

from amalgam.pipeline.engine.execute import Local, StepsFailed, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments.clip.graph import OfSeed, robust_graph
from amalgam.pipeline.experiments.clip.styles import clip_styles
from amalgam.pipeline.experiments.clip.variants import VARIANTS, variant
from amalgam.pipeline.steps.clip.explanation import ExplainConfig
from amalgam.pipeline.store.clip_checkpoints import key_of, load_classifier, load_clip, read_about, read_sae
from amalgam.pipeline.store.tables.features import read_features
from amalgam.pipeline.store.tables.results import read_results
from amalgam.tasks.clip.finetuning.regularisers import SAEMask
from amalgam.tasks.clip.zero_shot import zero_shot_head
from amalgam.tasks.data.loading import batches
from amalgam.tasks.data.opening import open_labelled
from amalgam.tasks.data.sources import LabelledConfig, MixedStyles
from amalgam.tasks.sae.metrics import fvu
from amalgam.tasks.scoring.results import STRENGTH
from tests.pipeline.steps.clip_sweep import IMAGES, VIEWS, WORLD, autoencoders, seeded, sweep

EXPLANATION = ExplainConfig(sources=(("plain", WORLD.source("test", 20)),))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def built(root, *steps):
    run(steps, root, Local())
    return [step.path(root) for step in steps]


def weights(folder):
    return load_classifier(folder).state_dict()


def same(one, other) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_zero_shot_classifier_is_the_tower_and_a_head_of_words(root):
    steps = OfSeed(sweep(), 0)
    folder, backbone = built(root, steps.zero_shot, steps.seeded.backbone)
    clip, classifier = load_clip(backbone), load_classifier(folder)
    head = zero_shot_head(clip, WORLD.class_names, read_about(folder).templates)
    assert same(classifier.head.state_dict(), head.state_dict())
    assert same(classifier.encoder.state_dict(), clip.image_tower.state_dict())
    assert read_about(folder).backbone == key_of(clip)


def test_a_sweep_computes_each_anchor_once(root):
    report = robust_graph(sweep())
    staged = [step for step in ancestors([report]) if step.name == "features"]
    rows = [run([step], root, Local()).records[step.fingerprint].metrics["rows"] for step in staged]
    assert sorted(rows) == [IMAGES, IMAGES * VIEWS]  # untouched for the autoencoders, and every view


def test_cached_and_live_anchors_give_the_same_classifier(root):
    chosen = variant("sae-mask")
    cached, live = built(
        root, *(OfSeed(sweep(anchoring=anchoring), 0).tuned(chosen, 30.0) for anchoring in ("views", "live"))
    )
    plain = built(root, OfSeed(sweep(), 0).tuned(variant("ft")))[0]
    assert same(weights(cached), weights(live)) and not same(weights(cached), weights(plain))


def test_a_linear_probe_leaves_the_encoder_and_comes_before_lp_ft(root):
    steps = OfSeed(sweep(), 0)
    before, probe, after = built(root, steps.zero_shot, steps.tuned(variant("lp")), steps.tuned(variant("lp-ft")))
    encoder = {name for name in weights(before) if name.startswith("encoder.")}
    assert same({name: weights(probe)[name] for name in encoder}, weights(before))
    assert not same({name: weights(after)[name] for name in encoder}, weights(before))
    parents = {step.fingerprint for step in steps.tuned(variant("lp-ft")).parents}
    assert steps.tuned(variant("lp")).fingerprint in parents


@pytest.mark.parametrize("name", [name for name, one in VARIANTS.items() if one.kind != "soup" and not one.robust])
def test_every_way_to_fine_tune_gives_a_classifier(name, root):
    chosen = variant(name)
    [folder] = built(root, OfSeed(sweep(), 0).tuned(chosen, 10.0))
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())


def test_strengths_meant_for_features_of_norm_one_are_converted_to_raw_ones(root):
    own, unit = (OfSeed(sweep(saes=autoencoders(normalised=False), strength_inputs=how), 0) for how in ("own", "unit"))
    images, kept, _ = open_labelled(own.seeded.labelled)
    encoder = load_classifier(built(root, own.zero_shot)[0]).encoder
    with torch.no_grad():
        length = encoder(next(batches(images, kept, len(kept))).images).norm(dim=1).mean().item()
    by_hand = replace(variant("sae-mask"), regulariser=SAEMask().at_length(length))
    steps = (unit.tuned(variant("sae-mask"), 30.0), own.tuned(by_hand, 30.0), own.tuned(variant("sae-mask"), 30.0))
    converted, expected, as_read = (weights(folder) for folder in built(root, *steps))
    torch.testing.assert_close(converted, expected)
    assert not same(converted, as_read) and length > 1.5


def in_groups(seed):
    """Pictures in the style of their class, mostly."""
    plain = seeded(seed)
    styled = MixedStyles(pictures=WORLD.source("finetuning", 120), styles=("plain", "bold"), bound=0.7)
    return replace(plain, labelled=LabelledConfig.separable(styled, 0.25, seed))


@pytest.mark.parametrize("name", ["group-dro", "jtt", "dfr"])
def test_methods_for_the_worst_group_train_on_pictures_in_groups(name, root):
    steps = OfSeed(sweep(seeded=in_groups), 0)
    robust, plain = built(root, steps.tuned(variant(name)), steps.tuned(variant("ft")))
    assert not same(weights(robust), weights(plain))
    encoder = [key for key in weights(plain) if key.startswith("encoder.")]
    alike = all(torch.equal(weights(robust)[key], weights(plain)[key]) for key in encoder)
    assert alike == (name == "dfr")  # whose head alone is trained again


def test_groups_that_are_missing_are_named(root):
    with pytest.raises(StepsFailed) as failed:
        built(root, OfSeed(sweep(), 0).tuned(variant("group-dro")))
    assert "group_dro needs images in groups" in str(failed.value.exceptions[0])


def test_autoencoders_are_measured_and_compared_between_seeds(root):
    recipe, step = sweep(), OfSeed(sweep(), 0).saes(sweep().saes)
    record = run([step], root, Local()).records[step.fingerprint]
    folder = step.path(root)
    quality = {(row.network.label, row.metric): row.value for row in read_results(folder)}
    rates = pd.read_parquet(folder / "firing_rates.parquet")
    for spec in recipe.saes.specs:
        sae = read_sae(folder, spec.name)
        label, of_latents = f"{spec.name_without_seed} {spec.seed}", rates[rates["autoencoder"] == spec.name]["rate"]
        assert quality[label, "l0"] <= 2 and of_latents.sum() == pytest.approx(quality[label, "l0"])
        assert len(of_latents) == sae.info.num_latents
        assert (of_latents == 0).mean() == pytest.approx(quality[label, "dead_share"])
        assert record.metrics[f"{spec.name}/plain/fvu"] == quality[label, "fvu"]
    assert 0 < record.metrics["topk-2-x4/stability"] <= 1


def test_autoencoders_of_raw_features_learn_from_and_penalise_raw_ones(root):
    steps, unit_steps = OfSeed(sweep(saes=autoencoders(normalised=False)), 0), OfSeed(sweep(), 0)
    step, chosen = steps.saes(steps.recipe.saes), variant("sae-mask")
    record = run([step], root, Local()).records[step.fingerprint]
    features = read_features(built(root, *steps.clean(steps.seeded.labelled.source))).features
    sae = read_sae(step.path(root), "topk-2-x4-s0")
    assert not sae.info.normalised and not torch.allclose(features.norm(dim=1), torch.ones(IMAGES), atol=0.1)
    assert record.metrics["topk-2-x4-s0/plain/fvu"] == pytest.approx(fvu(features, sae(features)), rel=1e-5)
    held, held_by_unit = built(root, steps.tuned(chosen, 30.0), unit_steps.tuned(chosen, 30.0))
    assert not same(weights(held), weights(held_by_unit))


def test_an_autoencoder_of_other_features_is_refused_in_one_sentence(root):
    step = OfSeed(sweep(saes=autoencoders(normalised=False)), 0).tuned(variant("sae-mask"), 30.0)
    trusting = replace(step, config=step.config.model_copy(update={"sae": sweep().saes.first}))
    with pytest.raises(StepsFailed) as failed:
        built(root, trusting)
    assert "normalised=False, got normalised=True" in str(failed.value.exceptions[0])


def test_features_of_another_backbone_are_refused(root):
    one, other = OfSeed(sweep(), 0), OfSeed(sweep(), 1)
    folders = built(root, *one.clean(one.seeded.labelled.source))
    with pytest.raises(ValueError, match="encoder"):
        read_features(folders, backbone=read_about(built(root, other.zero_shot)[0]).backbone)


def test_a_label_without_a_class_is_refused(root):
    steps = OfSeed(sweep(class_names=WORLD.class_names[:50]), 0)
    with pytest.raises(StepsFailed) as failed:
        built(root, steps.tuned(variant("ft")))
    assert "but the head has 50 classes" in str(failed.value.exceptions[0])


def test_a_soup_is_of_all_networks_that_trained_everything(root):
    recipe = sweep(methods=("ft", "lp", "l2", "soup"), alphas=(0.5, 1.0))
    results = {
        (path.config.identity.method, path.fingerprint): path for path in OfSeed(recipe, 0).paths(recipe.methods)
    }
    soup = next(path for (name, _), path in results.items() if name == "soup")
    tried = {s.fingerprint for (name, _), path in results.items() if name in ("ft", "l2") for s in path.inputs["after"]}
    assert {step.fingerprint for step in soup.inputs["after"]} == tried and len(tried) == 3
    metrics = run([*results.values()], root, Local()).records
    best = max(
        metrics[path.fingerprint].metrics["validation/accuracy@alpha=1"]
        for (name, _), path in results.items()
        if name in ("ft", "l2")
    )
    assert metrics[soup.fingerprint].metrics["validation/accuracy@alpha=1"] >= best
    with pytest.raises(ValueError, match="soup"):
        robust_graph(sweep(methods=("ft", "soup")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("ft", "l2", "ft")}, "method ft"),
        ({"factors": (10.0, 10.0)}, "strength 10.0"),
        ({"alphas": (0.3, 0.5)}, "alphas must end with 1"),
        ({"explained": ("soup",), "explanation": EXPLANATION}, "soup"),
        ({"explained": ("ft",)}, "'ft'"),
        (
            {"explained": ("ft",), "explanation": EXPLANATION, "saes": autoencoders(normalised=False)},
            "normalised",
        ),
    ],
)
def test_a_sweep_that_could_not_be_reported_is_refused_when_made(settings, message):
    with pytest.raises(ValueError, match=message):
        sweep(**settings)


def test_contrastive_training_in_parts_is_refused_when_planned():
    training = sweep().training.model_copy(update={"accumulate": 2})
    with pytest.raises(ValueError, match="accumulate"):
        robust_graph(sweep(methods=("flyp",), training=training))


def test_only_ways_that_are_tried_are_explained_unless_asked_for():
    def explained(**flags):
        return [step.config.title for step in clip_styles(seeds=1, **flags).inputs["explanations"]]

    assert clip_styles().fingerprint == clip_styles(explain=("ft", "sae-mask")).fingerprint
    assert explained(methods=("ft", "l2")) == ["What ft changed"]
    assert explained(methods=("l2",)) == explained(explain=()) == []
    assert explained(methods=("ft",), explain=("hinge",)) == ["What hinge changed"]


def test_a_sweep_without_autoencoders_measures_drift_all_the_same(root):
    report = robust_graph(sweep(methods=("ft",)))
    assert "saes" not in {step.name for step in ancestors([report])}
    [path] = [one for one in OfSeed(sweep(methods=("ft",)), 0).paths(("ft",)) if one.config.identity.method == "ft"]
    records = run([report], root, Local()).records
    drift = {name for name in records[path.fingerprint].metrics if name.startswith("drift/")}
    assert "drift/cka@alpha=1" in drift and not any("fvu" in name or "jaccard" in name for name in drift)


def test_the_network_that_the_report_chose_is_explained_and_both_say_so(root):
    recipe = sweep(methods=("ft", "l2"), seeds=2, explained=("l2",), explanation=EXPLANATION)
    report = robust_graph(recipe)
    (explanation,) = report.inputs["explanations"]
    records = run([report], root, Local()).records
    strength = records[report.fingerprint].metrics["strength/l2"]
    assert {row.network.setting(STRENGTH) for row in read_results(explanation.path(root))} == {strength}
    assert f"l2, strength {strength:g}, seed 0, as chosen above" in (report.path(root) / "robustness.html").read_text()
    page = (explanation.path(root) / "explanation.html").read_text()
    assert re.search(f"<dt>strength</dt><dd>{strength:g} \\(chosen from 10, 100", page)
    (chosen,) = [step for step in explanation.inputs["after"] if step.config.finetuning.strength == strength]
    assert f'{chosen.path(root).name}"' in page


def test_a_method_that_was_not_tested_is_explained_at_the_middle_of_the_grid():
    explained = {"explained": ("l2",), "explanation": EXPLANATION, "methods": ("ft",)}
    recipes = [sweep(factors=factors, **explained) for factors in ((1.0, 10.0, 100.0), (100.0, 1.0, 10.0))]
    (one,), (other,) = (robust_graph(recipe).inputs["explanations"] for recipe in recipes)
    assert one.fingerprint == other.fingerprint
    assert [step.config.finetuning.strength for step in one.inputs["after"]] == [10.0]
