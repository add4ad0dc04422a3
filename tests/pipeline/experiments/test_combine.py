"""Combiners on the members of an earlier run: staged logits are the members', and only validation images are fitted."""

import pytest
import torch

from amalgam.pipeline.cli.flags import make_step
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.steps.combining.combined import COMBINER_NAMES
from amalgam.pipeline.store.checkpoints import load_model
from amalgam.pipeline.store.tables.logits import Logits, read_logits, read_stacked, write_logits
from amalgam.pipeline.store.tables.results import read_results
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.tasks.data.opening import open_pool
from amalgam.tasks.scoring.combining import COMBINERS, FittedProbabilities
from amalgam.tasks.scoring.logits import predict, score

SMALL = {"seeds": 1, "members": 3, "epochs": 3, "widths": (20, 10), "methods": ("Identity",), "rivals": ("none",)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The root of a run of fusion, the report of `combine` on it, and what that was built of."""
    root = tmp_path_factory.mktemp("root")
    fusion = EXPERIMENTS["digits_partial_fusion"](**SMALL)
    outcome = run([fusion], root, Local())
    record = RunRecord.begun("digits_partial_fusion", {}, [fusion])
    record.model_copy(update={"built": outcome.built}).write(root)
    report = make_step(EXPERIMENTS["combine"], {"families": ("a", "a", "b")}, root=root)
    return root, report, run([report], root, Local()), fusion


@pytest.mark.slow
def test_members_of_the_run_are_found_and_not_trained_again(built):
    _, report, outcome, fusion = built
    trained = {step.fingerprint for step in ancestors([fusion]) if step.name == "member"}
    read = {step.fingerprint for step in ancestors([report]) if step.name == "member"}
    assert read == trained and len(read) == 3
    assert not read & set(outcome.built)


def test_staged_logits_are_what_the_member_gives_to_the_examples_they_name(built):
    root, report, *_ = built
    step = next(s for s in ancestors([report]) if s.name == "logits")
    images, _, validation = open_pool(step.config.sample)
    staged = read_logits(step.path(root), "validation")
    assert staged.ids.tolist() == validation.tolist()
    expected = predict(load_model(step.inputs["member"].path(root)), images, staged.ids)
    assert torch.equal(staged.values, expected) and torch.equal(staged.labels, images.labels[staged.ids])


def test_every_combiner_is_fitted_on_validation_and_scored_on_test(built):
    root, report, *_ = built
    step = next(s for s in ancestors([report]) if s.name == "combined")
    folders = [one.path(root) for one in step.inputs["logits"]]
    results = {(r.network.method, r.metric): r.value for r in read_results(step.path(root)) if r.role == "test"}
    assert {method for method, _ in results} == {f"{name} ensemble" for name in COMBINERS}
    test, labels = read_stacked(folders, "test")
    expected = score(FittedProbabilities().fit(*read_stacked(folders, "validation"))(test), labels, 10)
    assert results["fitted-probabilities ensemble", "nll"] == expected["nll"]
    labelled = {row["label"] for row in read_rows(report.path(root), "comparison")}
    assert {"member 0", "member 2", "aware-net ensemble", "majority-vote ensemble"} <= labelled


def test_fitted_ensembles_stand_beside_plain_means_on_the_frontier(built):
    root, _, _, fusion = built
    rows = {row["label"]: row for row in read_rows(fusion.path(root), "frontier")}
    for label in ("logit ensemble", "probability ensemble", "temperature ensemble", "fitted-logits ensemble"):
        assert rows[label]["relative_flops"] == pytest.approx(3)


def test_names_known_without_torch_are_those_of_the_registry():
    assert tuple(COMBINERS) == COMBINER_NAMES


def rows(order, values=None):
    ids = torch.tensor(order)
    return Logits(ids, ids % 2, (ids if values is None else values)[:, None] * torch.tensor([[1.0, -1.0]]), ())


def test_logits_of_members_are_matched_by_example_whatever_their_order(tmp_path):
    for name, order in (("a", [3, 1, 2]), ("b", [2, 3, 1]), ("c", [2, 3, 4])):
        (tmp_path / name).mkdir()
        write_logits(tmp_path / name, name, "mlp", {"test": rows(order)}, {"test": "digits"})
    stacked, labels = read_stacked([tmp_path / "a", tmp_path / "b"], "test")
    assert torch.equal(stacked[0], stacked[1]) and labels.tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="different examples"):
        read_stacked([tmp_path / "a", tmp_path / "c"], "test")
    with pytest.raises(ValueError, match=f"no logits at {tmp_path / 'none'}"):
        read_stacked([tmp_path / "a", tmp_path / "none"], "test")


def test_members_of_other_data_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_logits(tmp_path / name, name, "mlp", {"test": rows([1, 2])}, {"test": name})
    with pytest.raises(ValueError, match="2 different data sets"):
        read_stacked([tmp_path / "a", tmp_path / "b"], "test")


@pytest.mark.parametrize(
    ("flags", "text"), [({}, "no run under"), ({"combiners": ("meen-logits",)}, "no run under"), ({"run": "x"}, "'x'")]
)
def test_nothing_to_combine_is_one_sentence(tmp_path, flags, text):
    with pytest.raises(ValueError, match=text):
        make_step(EXPERIMENTS["combine"], flags, root=tmp_path)


def test_unknown_combiners_and_families_of_other_members_are_refused(built):
    with pytest.raises(ValueError, match="meen-logits"):
        make_step(EXPERIMENTS["combine"], {"combiners": ("meen-logits",)}, root=built[0])
    with pytest.raises(ValueError, match=r"3 and \('a', 'b'\)"):
        make_step(EXPERIMENTS["combine"], {"families": ("a", "b")}, root=built[0])
