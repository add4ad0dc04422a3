"""Members whose heads know different classes: the fused head is the union, and no class is averaged with another."""

import pytest
import torch
from torch import Tensor, nn

from amalgam.tasks.fusion import Assignment, Budget, Identity, PartialOT, Refit, class_union, fuse
from tests.tasks.fusion.architectures import CosineHead, RecurrentClassifier

EXACT = {"rtol": 0.0, "atol": 1e-9}
NAMES = (("cat", "dog", "eel"), ("dog", "fox", "cat", "gnu"))
UNION = ("cat", "dog", "eel", "fox", "gnu")
each_network = pytest.mark.parametrize("kind", ["convolutions", "normed tokens", "cosine"])


def member(kind: str, num_classes: int) -> nn.Module:
    if kind == "cosine":
        net = CosineHead()
        net.classes = nn.Parameter(torch.randn(num_classes, 8))
        return net.double().eval()
    if kind == "normed tokens":
        layers = [nn.Linear(6, 10), nn.GELU(), nn.LayerNorm(10), nn.Linear(10, num_classes)]
    else:
        layers = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, num_classes)]
    return nn.Sequential(*layers).double().eval()


def pair(kind: str, names=NAMES) -> tuple[list[nn.Module], Tensor]:
    torch.manual_seed(0)
    members = [member(kind, len(known)) for known in names]
    return members, torch.randn(*((5, 2, 4, 4) if kind == "convolutions" else (5, 6)), dtype=torch.float64)


def by_name(logits: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    return dict(zip(names, logits.unbind(-1), strict=True))


@each_network
@torch.no_grad()
def test_at_alpha_one_a_class_gets_the_mean_of_the_members_that_know_it(kind):
    (a, b), x = pair(kind)
    fused = fuse([a, b], PartialOT(alpha=1.0), x, (0.3, 0.7), class_names=NAMES)
    one, two = (by_name(net(x), names) for net, names in zip((a, b), NAMES, strict=True))
    expected = {**one, **two} | {name: 0.3 * one[name] + 0.7 * two[name] for name in ("cat", "dog")}
    assert fused.class_names == class_union(NAMES) == UNION
    torch.testing.assert_close(fused(x), torch.stack([expected[name] for name in UNION], -1), **EXACT)


@each_network
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_all_weight_on_one_member_gives_its_logits(kind, alpha):
    (a, b), x = pair(kind)
    found = by_name(fuse([a, b], PartialOT(alpha=alpha), x, (0, 1), class_names=NAMES)(x), UNION)
    for name, logit in by_name(b(x), NAMES[1]).items():
        torch.testing.assert_close(found[name], logit, **EXACT)


@torch.no_grad()
def test_equal_classes_in_another_order_are_the_same_classes():
    (a, b), x = pair("convolutions", (NAMES[0], NAMES[0][::-1]))
    fused = fuse([a, b], PartialOT(alpha=1.0), x, class_names=(NAMES[0], NAMES[0][::-1]))
    torch.testing.assert_close(fused(x), (a(x) + b(x).flip(1)) / 2, **EXACT)
    plain = fuse([a, b], PartialOT(alpha=1.0), x, class_names=(NAMES[0], NAMES[0]))
    torch.testing.assert_close(plain(x), (a(x) + b(x)) / 2, **EXACT)


@torch.no_grad()
def test_a_member_split_by_classes_fuses_with_itself_to_itself():
    (a, _), x = pair("convolutions", (UNION, UNION))
    parts = []
    for known in ((0, 1, 2), (1, 2, 3, 4)):
        part = member("convolutions", len(known))
        part.load_state_dict(
            {name: value[list(known)] if name.startswith("4.") else value for name, value in a.state_dict().items()}
        )
        parts.append(part)
    names = (UNION[:3], UNION[1:])
    for method in (Assignment(), PartialOT(alpha=0.4), Budget(flops=1.4)):
        torch.testing.assert_close(fuse(parts, method, x, class_names=names)(x), a(x), **EXACT)


@pytest.mark.parametrize("refit", [False, True, Refit(head="probabilities")])
@torch.no_grad()
def test_three_members_that_know_one_class_each_are_refitted(refit):
    names = (("cat", "dog"), ("dog", "eel"), ("fox",))
    members, x = pair("convolutions", names)
    fused = fuse(members, PartialOT(alpha=0.5), x, calibration=[x], refit=refit, class_names=names)
    assert fused(x).shape == (5, 4) and fused(x).isfinite().all()


def test_several_steps_of_words_keep_their_classes():
    torch.manual_seed(0)
    a, b = (RecurrentClassifier().double().eval() for _ in range(2))
    b.head = nn.Linear(7, 2).double()
    tokens = torch.randint(20, (3, 6))
    fused = fuse([a, b], PartialOT(alpha=1.0), tokens, class_names=(UNION, ("ant", "bee")))
    torch.testing.assert_close(fused(tokens), torch.cat([a(tokens), b(tokens)], 1), **EXACT)


class TwoHeads(nn.Module):
    def __init__(self, num_kinds: int, num_sizes: int) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(6, 8), nn.Linear(8, num_kinds), nn.Linear(8, num_sizes)

    def forward(self, x: Tensor) -> dict[str, object]:
        hidden = torch.tanh(self.body(x))
        return {"kind": self.kind(hidden), "more": (self.size(hidden), x)}


HEADS = ({"kind": NAMES[0], "more.0": ("small", "large")}, {"kind": NAMES[1], "more.0": ("large", "small", "huge")})


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@torch.no_grad()
def test_every_one_of_several_heads_is_the_union_of_its_classes(alpha):
    torch.manual_seed(0)
    (a, b), x = (TwoHeads(*sizes).double().eval() for sizes in ((3, 2), (4, 3))), torch.randn(5, 6).double()
    weights = (0.3, 0.7) if alpha == 1 else (0.0, 1.0)
    fused = fuse([a, b], PartialOT(alpha=alpha), x, weights, class_names=HEADS)
    assert fused.class_names == class_union(HEADS) == {"kind": UNION, "more.0": ("small", "large", "huge")}
    pairs = (lambda out: out["kind"], lambda out: out["more"][0])
    for take, key in zip(pairs, HEADS[0], strict=True):
        found = by_name(take(fused(x)), fused.class_names[key])
        one, two = (by_name(take(net(x)), names[key]) for net, names in zip((a, b), HEADS, strict=True))
        for name in two:
            both = weights[0] * one[name] + weights[1] * two[name] if name in one else two[name]
            torch.testing.assert_close(found[name], both, **EXACT)
    torch.testing.assert_close(fused(x)["more"][1], x)


@pytest.mark.parametrize("names", [HEADS[0]["kind"], {"kind": HEADS[0]["kind"]}, HEADS[0] | {"sort": ("a",)}])
def test_names_for_other_heads_than_the_network_has_are_refused(names):
    (a, b), x = (TwoHeads(3, 2).double() for _ in range(2)), torch.randn(5, 6).double()
    with pytest.raises(ValueError, match=r"'kind', 'more\.0'"):
        fuse([a, b], PartialOT(alpha=1.0), x, class_names=(HEADS[0], names))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, r"different numbers of outputs, \[\[3\], \[4\]\].*class_names"),
        ((NAMES[0],), "2"),
        ((NAMES[0], NAMES[0]), "member 1 has 4 outputs, but 3 class names"),
        ((NAMES[0], ("cat", "dog", "fox", "cat")), "member 1 name 'cat' twice"),
    ],
)
def test_heads_that_do_not_fit_their_names_are_refused(names, message):
    members, x = pair("convolutions")
    with pytest.raises(ValueError, match=message):
        fuse(members, Identity(), x, class_names=names)


@pytest.mark.parametrize(("role", "reads"), [("matching", True), ("statistics", False), ("both", True)])
@torch.no_grad()
def test_calibration_serves_matching_or_statistics_or_both(role, reads):
    (a, b), x = pair("convolutions", (NAMES[0], NAMES[0]))
    method = PartialOT(alpha=0.5, cost="activations")
    if not reads:
        with pytest.raises(ValueError, match="calibration"):
            fuse([a, b], method, x, calibration=[x], calibration_role=role)
        method = PartialOT(alpha=0.5)
    merged = fuse([a, b], PartialOT(alpha=0.5, cost="activations") if reads else method, x, calibration=[x],
                  calibration_role="matching", refit=False) if reads else fuse([a, b], method, x)  # fmt: skip
    fused = fuse([a, b], method, x, calibration=[x], calibration_role=role, refit=False)
    assert torch.equal(fused[1].running_mean, merged[1].running_mean) is (role == "matching")


def test_roles_without_an_effect_are_refused():
    (a, b), x = pair("convolutions", (NAMES[0], NAMES[0]))
    for role in ("matching", "all"):
        with pytest.raises(ValueError, match="calibration_role"):
            fuse([a, b], PartialOT(alpha=0.5), x, calibration=[x], calibration_role=role)
