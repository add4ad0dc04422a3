"""Latents are selected by names, tables and groups, and fine-tuning forbids the selected ones alone."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from amalgam.pipeline.engine.execute import Local, StepsFailed, run
from amalgam.pipeline.experiments.clip.graph import OfSeed
from amalgam.pipeline.experiments.clip.steering import Steering, added_latents, steered
from amalgam.pipeline.experiments.clip.styles import clip_styles
from amalgam.pipeline.experiments.clip.variants import VARIANTS
from amalgam.pipeline.steps.clip.selection import SELECTED, Rules
from amalgam.pipeline.store.clip_checkpoints import load_classifier
from tests.pipeline.steps.clip_sweep import sweep


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def of_rules(rules):
    methods, variants = steered(("ft",), rules)
    return OfSeed(sweep(methods=methods, variants=variants), 0)


def selected(root, rules, tuned=None):
    steps = of_rules(rules)
    plain = tuned and (steps.zero_shot if tuned == "zero-shot" else steps.tuned(VARIANTS[tuned]))
    step = steps.selected(steps.recipe.variant("selective"), rules, plain)
    run([step], root, Local())
    return SELECTED.read(step.path(root))


def test_a_table_is_taken_as_it_is(root):
    found = selected(root, Rules(table=((3, "forbid"), (9, "keep"), (1, "forbid")), weights=((9, 2.0),)))
    assert (found.forbid, found.keep, found.weights) == ((1, 3), (9,), ((9, 2.0),))


def test_latents_of_domains_are_those_that_tell_styles_apart(root):
    found = selected(root, Rules(groups=("domains",), rate=0.2))
    assert found.keep == () and len(found.forbid) > 0


def test_added_latents_are_those_of_plain_fine_tuning(root):
    rules = Rules(groups=("added",), rate=0.99)
    assert len(selected(root, rules, "ft").forbid) > 0
    with pytest.raises(StepsFailed) as failed:  # a network that was not tuned adds none
        selected(root, rules, "zero-shot")
    assert "no latent fits" in str(failed.value.exceptions[0])


def test_fine_tuning_forbids_what_was_selected(root):
    steps = of_rules(Rules(table=tuple((latent, "forbid") for latent in range(40))))
    plain, forbidden = steps.tuned(VARIANTS["ft"]), steps.tuned(steps.recipe.variant("selective"), 1e3)
    run([plain, forbidden], root, Local())
    states = [load_classifier(step.path(root)).state_dict() for step in (plain, forbidden)]
    assert not all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_latents_of_another_autoencoder_are_refused(root):
    with pytest.raises(StepsFailed) as failed:
        selected(root, Rules(table=((3, "forbid"),), table_of=("another", "0" * 16)))
    [error] = failed.value.exceptions
    assert "explain a network of this run" in str(error) and "another" in str(error)


def test_rules_that_contradict_each_other_or_select_nothing_are_refused():
    for given, message in (
        ({}, "nothing is selected"),
        ({"table": ((3, "forbid"), (3, "keep"))}, "latent 3 is both"),
        ({"forbid": ("bold",)}, "no word for latents 'bold'"),
    ):
        with pytest.raises(ValueError, match=message):
            Rules(**given)
    with pytest.raises(ValueError, match="selects nothing"):
        steered(("selective",), None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"forbid": ("bould",)}, "did you mean 'bold'"),
        ({"forbid": ("four",)}, "what the task is about"),
        ({"forbid": ("bold",), "keep": ("bold",)}, "both forbidden and kept"),
        ({"forbid_groups": ("domain",)}, "did you mean 'domains'"),
        ({"forbid_from": "nowhere"}, r"changes\.parquet"),
        ({"latent_table": "nowhere.csv"}, "latent, rule"),
    ],
)
def test_bad_flags_are_refused_before_anything_runs(flags, message):
    with pytest.raises(ValueError, match=message):
        clip_styles(**flags)


def test_a_rule_adds_its_method_to_those_that_are_tried():
    report = clip_styles(forbid=("bold", "noisy"), methods=("ft",))
    assert {path.config.identity.method for path in report.inputs["paths"]} == {"zero-shot", "ft", "selective"}


def test_added_latents_are_those_that_became_active_beyond_chance(tmp_path):
    rows = [
        {"latent": 4, "scope": "all", "added": 30, "removed": 2, "q": 0.001},
        {"latent": 5, "scope": "all", "added": 3, "removed": 2, "q": 0.9},
        {"latent": 6, "scope": "all", "added": 1, "removed": 40, "q": 0.001},
        {"latent": 7, "scope": "class", "added": 30, "removed": 2, "q": 0.001},
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.replace_schema_metadata({"backbone": "b", "autoencoder": "k"}), tmp_path / "changes.parquet")
    assert added_latents(tmp_path) == ((4,), ("b", "k"))
    rules = Steering(forbid_from=str(tmp_path / "changes.parquet")).rules((), ())
    assert (rules.table, rules.table_of) == (((4, "forbid"),), ("b", "k"))
    pq.write_table(table.slice(1), tmp_path / "changes.parquet")
    with pytest.raises(ValueError, match="no latent that fine-tuning added"):
        added_latents(tmp_path)


def test_a_table_file_has_latents_and_rules(tmp_path):
    (tmp_path / "t.csv").write_text("latent,rule\n3,forbid\n8,keep\n")
    assert Steering(latent_table=str(tmp_path / "t.csv")).rules((), ()).table == ((3, "forbid"), (8, "keep"))
    (tmp_path / "t.csv").write_text("latent,rule,weight\n3,forbid,2.5\n8,keep,\n")
    assert Steering(latent_table=str(tmp_path / "t.csv")).rules((), ()).weights == ((3, 2.5),)
    (tmp_path / "t.csv").write_text("latent,rule\n3,forbit\n")
    with pytest.raises(ValueError, match="did you mean 'forbid'"):
        Steering(latent_table=str(tmp_path / "t.csv")).rules((), ())


def test_the_written_selection_says_what_latents_are_called(root):
    rules = Rules(table=((3, "forbid"),))
    steps = of_rules(rules)
    step = steps.selected(replace(VARIANTS["selective"], rules=rules), rules)
    run([step], root, Local())
    assert json.loads((step.path(root) / "selection.json").read_text())["names"] == {"forbid": ["unnamed"], "keep": []}
