"""Flips are the predictions that changed, and clamps are what re-classifying says they are."""

import pytest
import torch

from amalgam.tasks.explain.clamps import ClampMeter, clamped, pieces
from amalgam.tasks.explain.decomposition import contributions, decompose
from amalgam.tasks.explain.flips import KINDS, FlipMeter, flips_of
from tests.tasks.explain.worlds import NUM_DOMAINS, drifted, explained, head, random_batch, random_comparison


def test_flips_are_the_changed_predictions_and_margins_cross_zero():
    batch = random_batch()
    flips, (before, after, labels, _) = flips_of(batch, decompose(batch)), drifted()
    old, new = head(1)(before).argmax(1), head(2)(after).argmax(1)
    assert torch.equal(flips.rows, (old != new).nonzero().flatten())
    assert torch.equal(flips.old, old[flips.rows]) and torch.equal(flips.new, new[flips.rows])
    assert (flips.margin_before <= 0).all() and (flips.margin_before + flips.rise.total >= 0).all()
    for kind, was, now in zip(
        flips.kinds, flips.old == labels[flips.rows], flips.new == labels[flips.rows], strict=True
    ):
        assert (
            KINDS[kind]
            == {(1, 0): "right to wrong", (0, 1): "wrong to right", (0, 0): "wrong to wrong"}[int(was), int(now)]
        )


def test_leading_latents_are_those_with_the_largest_part_of_the_rise():
    batch = random_batch()
    flips = flips_of(batch, decompose(batch))
    old, new = (contributions(batch.by, batch.active, predicted) for predicted in batch.predicted)
    pushes = batch.active.dense(new - old)[flips.rows]
    torch.testing.assert_close(pushes.sum(1), flips.rise.latents)
    assert torch.equal(pushes.argmax(1), flips.leading[:, 0])
    assert torch.equal(flips.explained, flips.rise.latents / flips.rise.total > 0.5)


def test_the_report_counts_every_flip_once():
    batch, found = random_batch(), explained(random_comparison(), drifted(), batch_size=11).flips
    flips = flips_of(batch, decompose(batch))
    assert found.numbers.sum() == found.by_domain.sum() == len(flips.rows) == sum(g.number for g in found.groups) > 0
    assert found.explained.sum() == flips.explained.sum() and found.alone.sum() == flips.alone.sum()
    led = dict(zip(flips.rows.tolist(), flips.leading[:, 0].tolist(), strict=True))
    for group in found.groups:
        assert all(led[row] == group.latent for row in group.examples)


@pytest.mark.parametrize("target", ["before", "zero"])
def test_clamping_is_decoding_the_clamped_code_and_classifying_again(target):
    batch, sae = random_batch(num_images=20), random_comparison().sae.double()
    s0, s1 = batch.s0.dense(), batch.s1.dense()
    shift = s0 - s1 if target == "before" else -s1
    error = batch.z1 - sae.decode(s1)
    seen = 0
    for rows, latents, predicted in clamped(batch, target):
        for row, latent, found in zip(rows.tolist(), latents.tolist(), predicted.tolist(), strict=True):
            code = s1[row].clone()
            code[latent] = s0[row, latent] if target == "before" else 0
            assert found == head(2).double()(sae.decode(code) + error[row]).argmax()
            seen += 1
    assert seen == (shift != 0).sum() > 0


def test_clamp_tables_count_what_turned_right_and_wrong():
    batch, meter = random_batch(num_images=40), ClampMeter(random_comparison(), NUM_DOMAINS)
    meter.update(batch)
    table = meter.result("zero")
    rows, latents, predicted = next(clamped(batch, "zero"))
    latent = int(latents.mode().values)
    accuracy, now = (batch.predicted[1] == batch.labels).double(), batch.predicted[1].clone()
    now[rows[latents == latent]] = predicted[latents == latent]
    difference = ((now == batch.labels).double() - accuracy).mean()
    assert table.accuracy_change[latent] == pytest.approx(difference.item())
    assert table.restored[latent] == ((now == batch.predicted[0]) & (batch.predicted[1] != batch.predicted[0])).sum()


def test_pieces_set_back_are_classified_by_the_head_itself():
    batch, sae = random_batch(), random_comparison().sae.double()
    found, (old, new) = pieces(batch), (head(1).double(), head(2).double())
    e0, e1 = batch.z0 - sae.decode(batch.s0), batch.z1 - sae.decode(batch.s1)
    expected = {
        "before": old(batch.z0),
        "after": new(batch.z1),
        "latents back": new(sae.decode(batch.s0) + e1),
        "error back": new(sae.decode(batch.s1) + e0),
        "features back": new(batch.z0),
        "head back": old(batch.z1),
    }
    assert {name: logits.argmax(1).tolist() for name, logits in expected.items()} == {
        name: classes.tolist() for name, classes in found.items()
    }


def test_meters_without_images_have_no_result():
    with pytest.raises(ValueError, match="no images"):
        ClampMeter(random_comparison(), 1).result("zero")
    with pytest.raises(ValueError, match="no images"):
        FlipMeter(4, 1).result()
