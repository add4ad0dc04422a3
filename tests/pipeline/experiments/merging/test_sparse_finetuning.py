"""Sparse fine-tuning, built for real: what is saved differs from the base at the masked entries alone."""

import pytest
import torch

from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.store.checkpoints import load_model, read_nonzeros
from amalgam.pipeline.store.tables.results import read_results
from amalgam.tasks.merging.multitask.heads import encoder_state

SMALL = {
    "seeds": 1,
    "epochs": 2,
    "base_epochs": 3,
    "widths": (16, 12),
    "shares": (0.1,),
    "learning_rates": (1e-2, 1e-1),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    report = EXPERIMENTS["sparse_finetuning"](**SMALL)
    run([report], root, Local())
    return root, report


@pytest.mark.slow
def test_task_vectors_have_no_entry_outside_their_mask(built):
    root, report = built
    steps = [step for step in ancestors([report]) if step.name == "sparse" and step.config.share < 1]
    assert len(steps) == 5
    for step in steps:
        base = encoder_state(load_model(step.inputs["base"].path(root)))
        tuned, masks = encoder_state(load_model(step.path(root))), read_nonzeros(step.path(root))
        assert sum(int(m.sum()) for m in masks.values()) == round(0.1 * sum(m.numel() for m in masks.values()))
        assert all(torch.equal(tuned[name][~mask], base[name][~mask]) for name, mask in masks.items())
        assert any(not torch.equal(tuned[name], base[name]) for name in masks)


@pytest.mark.slow
def test_rates_are_chosen_on_validation_and_every_rule_has_a_row(built):
    root, report = built
    for step in (s for s in ancestors([report]) if s.name == "sparse"):
        found = {r.metric: r.value for r in read_results(step.path(root))}
        assert found["learning_rate"] in SMALL["learning_rates"]
    labels = {row["label"] for row in read_rows(report.path(root), "comparison")}
    rules = ("random", "magnitude", "fisher", "bayestune", "bayestune-sgld")
    assert labels == {"all entries", *(f"{rule} 10 %" for rule in rules)}


@pytest.mark.parametrize(
    ("flags", "text"), [({"rules": ("fischer",)}, "fischer"), ({"seeds": 0}, "0"), ({"shares": ()}, "share")]
)
def test_bad_flags_are_refused_before_anything_runs(flags, text):
    with pytest.raises(ValueError, match=text):
        EXPERIMENTS["sparse_finetuning"](**flags)
