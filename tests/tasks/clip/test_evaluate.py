"""One pass over the images says of every network what the network itself would say."""

import copy
from dataclasses import replace

import pytest
import torch

from amalgam.tasks.clip.finetuning.drift import frozen
from amalgam.tasks.clip.testing.evaluate import Examination, examine, interpolated_networks, kept
from amalgam.tasks.clip.testing.similarity import DriftMeter
from amalgam.tasks.clip.zero_shot import Classifier, Projection, zero_shot_head
from amalgam.tasks.data.pixels import Images, changed, in_memory
from amalgam.tasks.scoring.logits import predict, score
from amalgam.tasks.scoring.metrics import METRICS, value
from tests.tasks.clip.worlds import CLASSES, tiny_clip

TEMPLATES = ("a photo of the digit {}",)
ALPHAS = (0.0, 0.3, 1.0)


def some_images(count: int = 40, num_classes: int = 4) -> Images:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 16, 16), generator=draw, dtype=torch.uint8)
    names = tuple(f"class {i}" for i in range(num_classes))
    return in_memory(pixels, torch.randint(num_classes, (count,), generator=draw), names)


def counted(images: Images) -> tuple[Images, list[int]]:
    """The images, and the numbers of those that were read."""
    read: list[int] = []
    return changed(images, lambda pixels, ids: read.extend(ids.tolist()) or pixels, ()), read


def classifier(seed: int = 0) -> Classifier:
    clip = tiny_clip(seed)
    return Classifier(clip.image_tower, zero_shot_head(clip, CLASSES, TEMPLATES))


@pytest.fixture
def ends():
    before = classifier()
    after = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return before, after


def test_every_network_answers_as_if_it_were_built(ends):
    before, after = ends
    images, networks = some_images(), interpolated_networks(before.state_dict(), after.state_dict(), ALPHAS)
    said = examine(before, networks, Examination(images))
    assert list(said) == ["alpha=0", "alpha=0.3", "alpha=1"]
    for name, make in networks.items():
        built = classifier(seed=5)
        built.load_state_dict(make())
        scores = score(predict(built, images, range(40)), images.labels, 4)
        for metric in ("accuracy", "nll", "calibration_error"):
            assert value(METRICS[metric], said[name]) == pytest.approx(scores[metric], abs=1e-6)


def test_end_points_are_the_networks_themselves_to_the_bit(ends):
    before, after = ends
    images, networks = some_images(), interpolated_networks(before.state_dict(), after.state_dict(), ALPHAS)
    said = examine(copy.deepcopy(before), networks, Examination(images))
    for name, end in (("alpha=0", before), ("alpha=1", after)):
        alone = examine(end, {"it": end.state_dict}, Examination(images))["it"]
        assert all(torch.equal(column, alone.columns[which]) for which, column in said[name].columns.items())


def test_images_are_read_once_however_many_networks(ends):
    images, read = counted(some_images())
    networks = interpolated_networks(*(end.state_dict() for end in ends), tuple(i / 10 for i in range(11)))
    examine(ends[0], networks, Examination(images), batch_size=7)
    assert len(read) == 40


def test_kept_networks_are_made_once_and_all_answers_stay(ends):
    networks = interpolated_networks(*(end.state_dict() for end in ends), ALPHAS)
    size = sum(tensor.nbytes for tensor in ends[0].state_dict().values())
    inside, lazy = kept(networks, 3 * size), kept(networks, 3 * size - 1)
    assert inside["alpha=0.3"]() is inside["alpha=0.3"]() and lazy["alpha=0.3"]() is not lazy["alpha=0.3"]()
    one, other = (examine(ends[0], each, Examination(some_images())) for each in (inside, lazy))
    assert all(torch.equal(one[name].nll, other[name].nll) for name in networks)


def test_the_lender_keeps_its_weights_mode_and_gradients(ends):
    lender = ends[0].train()
    state = copy.deepcopy(lender.state_dict())
    examine(lender, interpolated_networks(state, ends[1].state_dict(), (1.0,)), Examination(some_images()))
    assert lender.training and all(torch.equal(tensor, state[name]) for name, tensor in lender.state_dict().items())
    assert all(parameter.requires_grad for parameter in lender.parameters())


def test_a_head_of_its_own_classifies_other_classes(ends):
    clip = tiny_clip()
    other = zero_shot_head(clip, ["bold", "thin"], ["a {} digit"])
    images = some_images(num_classes=2)
    said = examine(ends[0], {"it": ends[1].state_dict}, Examination(images, head=other))["it"]
    expected = predict(Classifier(frozen(ends[1].encoder), other), images, range(40))
    assert torch.equal(said.classes, expected.argmax(1))


def test_classes_of_the_head_stand_for_those_of_the_images(ends):
    images = some_images(num_classes=2)
    projection = Projection(((0, 2), (3,)), 4)
    said = examine(ends[0], {"it": ends[1].state_dict}, Examination(images, projection=projection))["it"]
    assert torch.equal(said.classes, projection(predict(ends[1], images, range(40))).argmax(1))
    with pytest.raises(ValueError, match=r"2 classes.*4 logits"):
        examine(ends[0], {"it": ends[1].state_dict}, Examination(images))


def test_only_the_requested_images_are_read_with_their_groups(ends):
    plain, read = counted(some_images())
    images = replace(plain, groups=torch.arange(40) % 2, group_names=("day", "night"))
    order = torch.tensor([9, 4, 30])
    said = examine(ends[0], {"it": ends[0].state_dict}, Examination(images, order))["it"]
    assert torch.equal(said.ids, order) and torch.equal(said.labels, images.labels[order])
    assert said.groups.tolist() == [1, 0, 0] and said.group_names == ("day", "night") and read == [9, 4, 30]


def test_drift_is_measured_against_the_first_network(ends):
    images = some_images()
    meters = {"alpha=0.3": DriftMeter(), "alpha=1": DriftMeter()}
    networks = interpolated_networks(*(end.state_dict() for end in ends), ALPHAS)
    examine(ends[0], networks, Examination(images, drift=meters), batch_size=7)
    pixels = images.batch(torch.arange(40)).float() / 127.5 - 1
    alone = DriftMeter()
    with torch.no_grad():
        alone.update(*(end.encoder(pixels) for end in ends))
    assert meters["alpha=1"].result() == pytest.approx(alone.result(), rel=1e-5)
    assert meters["alpha=1"].result()["cosine"] < meters["alpha=0.3"].result()["cosine"] < 1


@pytest.mark.parametrize("named", [True, False])
def test_drift_can_be_measured_on_the_first_images_from_any_network(ends, named):
    images, meter = some_images(), DriftMeter()
    path = interpolated_networks(*(end.state_dict() for end in ends), (1.0,) if named else (0.0, 1.0))
    before = ends[0].state_dict if named else None
    asked = Examination(images, before=before, drift={"alpha=1": meter}, drift_images=17)
    said = examine(ends[1], path, asked, batch_size=7)
    pixels = images.batch(torch.arange(17)).float() / 127.5 - 1
    alone = DriftMeter()
    with torch.no_grad():
        alone.update(*(end.encoder(pixels) for end in ends))
    assert meter.num_examples == 17 and len(said["alpha=1"].ids) == 40
    assert meter.result() == pytest.approx(alone.result(), rel=1e-5)


def test_half_precision_answers_nearly_alike(ends):
    networks = interpolated_networks(*(end.state_dict() for end in ends), ALPHAS)
    exact, half = (
        examine(ends[0], networks, Examination(some_images()), precision=precision)["alpha=0.3"]
        for precision in (torch.float32, torch.bfloat16)
    )
    # bfloat16 keeps 8 bits of features; logits are up to 14 here.
    assert (exact.nll - half.nll).abs().max() < 0.5 and not torch.equal(exact.nll, half.nll)
