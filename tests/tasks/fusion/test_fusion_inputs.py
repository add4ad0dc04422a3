"""What people bring by accident: each input is fused exactly, or refused in one sentence that names it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from amalgam.tasks.fusion import Identity, PartialOT, fuse
from amalgam.tasks.fusion.fitting.norms import recalibrate
from tests.tasks.fusion.networks import example, networks

EXACT = {"rtol": 0.0, "atol": 1e-9}
ENSEMBLE = PartialOT(alpha=1.0)


def seeded(make, count: int = 2) -> list[nn.Module]:
    torch.manual_seed(0)
    return [make().double().eval() for _ in range(count)]


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class PerUnit(nn.Module):
    """A constant per unit, kept in one of the places where tensors can be kept."""

    def __init__(self, constant: Tensor, place: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 3)
        if place == "attribute":
            self.constant = constant
        else:
            self.register_buffer("constant", constant, persistent=place == "persistent")

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)) * self.constant)


@pytest.mark.parametrize("place", ["persistent", "hidden", "attribute"])
@pytest.mark.parametrize(
    "constant",
    [torch.arange(16) % 3 > 0, torch.arange(16), torch.linspace(0.1, 2, 16).double()],
    ids=["bool", "int", "float"],
)
def test_constants_per_unit_take_part_in_the_ensemble(place, constant):
    (a, b), x = seeded(lambda: PerUnit(constant, place)), numbers(8, 5)
    torch.testing.assert_close(fuse([a, b], ENSEMBLE, x)(x), (a(x) + b(x)) / 2, **EXACT)


def test_constants_that_have_no_mean_are_refused_by_name():
    members = seeded(lambda: PerUnit(torch.rand(16) > 0.5, "persistent"))
    with pytest.raises(ValueError, match="constant"):
        fuse(members, Identity(), numbers(8, 5))


class Plain(nn.Module):
    """Parameters that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1, self.w2 = (nn.Parameter(torch.randn(s)) for s in ((16, 5), (16,), (3, 16)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.w1, self.b1)), self.w2)


class Points(nn.Module):
    """Layers shared by the points of a set: units lie on the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 16), nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))).mean(1))


@pytest.mark.parametrize(("make", "shape"), [(Plain, (8, 5)), (Points, (8, 7, 5))])
@pytest.mark.parametrize("refit", [True, False])
def test_calibration_leaves_the_ensemble_as_it_is(make, shape, refit):
    (a, b), x = seeded(make), numbers(*shape)
    fused = fuse([a, b], ENSEMBLE, x, calibration=[x, x[:4]], refit=refit)
    torch.testing.assert_close(fused(x), (a(x) + b(x)) / 2, rtol=0, atol=1e-6)


def test_activations_are_taken_on_the_axis_of_units_or_refused_by_name():
    (a, b), x = seeded(Points), numbers(8, 7, 5)
    fused = fuse([a, b], PartialOT(alpha=0.5, cost="activations"), x, (1, 0), calibration=[x], refit=False)
    torch.testing.assert_close(fused(x), a(x), **EXACT)
    with pytest.raises(ValueError, match="w2"):
        fuse(seeded(Plain), PartialOT(alpha=0.5, cost="activations"), numbers(8, 5), calibration=[numbers(8, 5)])


class Converted(nn.Module):
    """A table that is converted and resized before it is added, as positions of vision transformers are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.table, self.last = nn.Linear(5, 6), nn.Parameter(torch.randn(1, 4, 6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        table = F.interpolate(self.table[:, 1:].to(torch.float32).mT, size=7, mode="linear").mT
        return self.last(torch.relu(self.first(x) + table)).mean(1)


def test_parameters_that_are_converted_to_a_type_are_fused():
    (a, b), x = [net.float() for net in seeded(Converted)], numbers(8, 7, 5).float()
    torch.testing.assert_close(fuse([a, b], ENSEMBLE, x)(x), (a(x) + b(x)) / 2, rtol=0, atol=1e-5)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.relu(self.left(x) + self.right(y)))


def test_networks_of_two_inputs_are_fused_and_their_calibration_is_refused():
    (a, b), inputs = seeded(Two), (numbers(8, 5), numbers(8, 4))
    torch.testing.assert_close(fuse([a, b], ENSEMBLE, inputs)(*inputs), (a(*inputs) + b(*inputs)) / 2, **EXACT)
    with pytest.raises(ValueError, match="2 inputs"):
        fuse([a, b], ENSEMBLE, inputs, calibration=[inputs])


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_calibration_is_refused(refit, bad):
    x = numbers(8, 5)
    x[3, 2] = bad
    for make in (normed, Plain):
        with pytest.raises(ValueError, match="batch 1 "):
            fuse(seeded(make), PartialOT(alpha=0.5), x[:2], calibration=[x[4:], x], refit=refit)


def test_a_non_finite_example_is_refused():
    with pytest.raises(ValueError, match="example has"):
        fuse(seeded(Plain), ENSEMBLE, numbers(8, 5) / 0)


def test_a_last_batch_of_one_counts_as_one_row():
    (a, b), x = seeded(normed), numbers(33, 5)
    fused = fuse([a, b], PartialOT(alpha=0.5), x[:8], calibration=list(x.split(16)), refit=False)
    torch.testing.assert_close(fused[1].running_mean[:8], fused[0](x).mean(0)[:8], **EXACT)


def test_recalibration_never_changes_the_ensemble():
    (a, b), x = networks("resnet", 2), example("resnet", batch=12)
    fused = fuse([a, b], ENSEMBLE, x, calibration=[x[:6], x[6:]], refit=False)
    torch.testing.assert_close(fused(x), (a(x) + b(x)) / 2, **EXACT)
    assert not torch.equal(recalibrate(fused, [x]).bn.running_mean, fused.bn.running_mean)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (lambda: nn.LeakyReLU(0.01), lambda: nn.LeakyReLU(0.5)),
        (lambda: nn.BatchNorm1d(16, eps=1e-5), lambda: nn.BatchNorm1d(16, eps=1.0)),
        (lambda: nn.Softplus(1), lambda: nn.Softplus(4)),
    ],
    ids=["slope", "eps", "beta"],
)
def test_members_whose_layers_have_other_settings_are_refused_by_name(one, two):
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(5, 16), make(), nn.Linear(16, 3)).double().eval() for make in (one, two))
    with pytest.raises(ValueError, match=r"1: "):
        fuse([a, b], ENSEMBLE, numbers(8, 5))


def test_members_of_different_precision_are_refused():
    a, b = seeded(Plain)
    with pytest.raises(ValueError, match="float32"):
        fuse([a, copy.deepcopy(b).float()], ENSEMBLE, numbers(8, 5))


class Remembers(nn.Linear):
    """A layer that keeps its last output."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = {"outputs": [super().forward(x)]}
        return self.last["outputs"][0]


class TwoInTraining(nn.Module):
    """A head that serves training alone, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(5, 16), nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = torch.relu(self.body(x))
        return (self.head(h), self.auxiliary(h)) if self.training else self.head(h)


def behind(first: nn.Module) -> nn.Module:
    return nn.Sequential(first, nn.ReLU(), nn.Linear(16, 3))


COMPUTED = {
    "weight norm by hooks": lambda: behind(nn.utils.weight_norm(nn.Linear(5, 16))),
    "weight norm": lambda: behind(nn.utils.parametrizations.weight_norm(nn.Linear(5, 16))),
    "spectral norm": lambda: behind(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 16))),
    "pruning mask": lambda: behind(prune.l1_unstructured(nn.Linear(5, 16), "weight", 0.3)),
    "remembered outputs": lambda: behind(Remembers(5, 16)),
    "auxiliary head": TwoInTraining,
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED)
def test_members_that_compute_weights_or_keep_results_are_fused_after_they_ran(make, refit):
    (a, b), x = seeded(make), numbers(30, 5)
    expected = (a(x) + b(x)) / 2  # with gradients: what a class keeps has a history from now on
    fused = fuse([a, b], ENSEMBLE, x[:4], calibration=[x], refit=refit)
    torch.testing.assert_close(fused(x), expected, **EXACT)


def test_weights_under_weight_norm_are_fused_and_fitted_as_plain_weights():
    normed, x = seeded(COMPUTED["weight norm"]), numbers(40, 5)
    plain = seeded(lambda: behind(nn.Linear(5, 16)))
    for with_norm, without in zip(normed, plain, strict=True):
        weights = {name: with_norm[int(name[0])].get_parameter(name[2:]) for name in ("2.weight", "2.bias", "0.bias")}
        without.load_state_dict(weights | {"0.weight": with_norm[0].weight})
    fitted = [fuse(members, Identity(), x, calibration=[x])(x) for members in (normed, plain)]
    torch.testing.assert_close(*fitted, **EXACT)


def test_what_serves_training_alone_is_left_out_and_named(caplog):
    (a, b), x = seeded(TwoInTraining), numbers(8, 5)
    fused = fuse([a, b], PartialOT(alpha=0.5), x)
    assert not any("auxiliary" in name for name in fused.state_dict())
    assert "auxiliary.weight" in caplog.text


class Hard(nn.Module):
    """A class that writes a width into its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 10, 3, padding=1), nn.Linear(160, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(torch.relu(self.conv(x)), 2).view(-1, 160))


def test_widths_that_are_written_into_a_class_are_rewritten():
    (a, b), x = seeded(Hard), numbers(3, 3, 8, 8)
    torch.testing.assert_close(fuse([a, b], ENSEMBLE, x)(x), (a(x) + b(x)) / 2, **EXACT)


def test_a_single_member_is_itself():
    (a,), x = seeded(normed, 1), numbers(8, 5)
    torch.testing.assert_close(fuse([a], PartialOT(alpha=0.3), x)(x), a(x), **EXACT)


class Heads(nn.Module):
    """Several outputs, in a dictionary that holds a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, object]:
        h = torch.tanh(self.body(x))
        return {"classes": self.one(h), "rest": (self.two(h), self.two(h).squeeze(1))}


def test_several_heads_are_averaged_each_on_its_own():
    (a, b), x = seeded(Heads), numbers(8, 5)
    found, one, two = fuse([a, b], ENSEMBLE, x, (0.3, 0.7))(x), a(x), b(x)
    torch.testing.assert_close(found["classes"], 0.3 * one["classes"] + 0.7 * two["classes"], **EXACT)
    for f, p, q in zip(found["rest"], one["rest"], two["rest"], strict=True):
        torch.testing.assert_close(f, 0.3 * p + 0.7 * q, **EXACT)


@pytest.mark.parametrize(
    "make", [lambda: nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 1), nn.Flatten(0))], ids=["one logit"]
)
def test_unusual_outputs_are_averaged(make):
    (a, b), x = seeded(make), numbers(8, 5)
    torch.testing.assert_close(fuse([a, b], ENSEMBLE, x)(x), (a(x) + b(x)) / 2, **EXACT)
