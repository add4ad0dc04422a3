"""Fisher information and Grams against brute force, and shards that add up in any order."""

import pytest
import torch
from torch import nn

from amalgam import EpiMer, RegMean, RegMeanPlusPlus, Statistics, merge
from amalgam.tasks.merging.statistics.fisher import factored, fisher_sums, projected_gradients
from amalgam.tasks.merging.statistics.grams import MergedBelow, gram_sums, mean_output
from amalgam.tasks.merging.statistics.staging import named_basis, stage
from amalgam.tasks.scoring.sums import Sums, added


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 6), nn.GELU(), nn.Linear(6, 4)
    ).eval()


def perceptron(seed=0):
    """Every trained layer is linear in rows, one per example: its squares need no gradients of single examples."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, 5, bias=False), nn.Linear(5, 4)).eval()


class Attending(nn.Module):
    """Patches as tokens, layer norms, a residual sum, activations in place."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 6, 2, stride=2, bias=False)
        self.norm, self.mix = nn.LayerNorm(6), nn.Linear(6, 6)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(6, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((tokens + self.relu(self.mix(self.norm(tokens)))).mean(1))


def attending(seed=0):
    torch.manual_seed(seed)
    return Attending().eval()


def convolutional(seed=0):
    """Strides, dilation and padding, batch norms with statistics, activations in place."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 2, stride=2, dilation=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4, 4),
    )
    module.train()(torch.randn(32, 1, 4, 4))
    return module.eval()


def grouped(seed=0):
    """Convolutions in groups are taken example by example."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 2), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten(), nn.Linear(16, 4)).eval()


def data(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 4, 4, generator=generator), torch.randint(4, (count,), generator=generator)


def brute_force(module, images, labels=None):
    """Mean over examples of squared gradients, each example and class by itself."""
    total = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for place, image in enumerate(images):
        logs = module(image[None]).log_softmax(1)[0]
        for c in range(4) if labels is None else [labels[place]]:
            weight = logs[c].exp().detach() if labels is None else 1
            for name, g in zip(
                total, torch.autograd.grad(logs[c], list(module.parameters()), retain_graph=True), strict=True
            ):
                total[name] += weight * g.square() / len(images)
    return total


@pytest.mark.parametrize("make", [network, perceptron, attending, convolutional, grouped])
@pytest.mark.parametrize("estimator", ["exact", "empirical"])
def test_fisher_equals_brute_force(estimator, make):
    module, (images, labels) = make(), data()
    found = fisher_sums(module, zip(images.split(5), labels.split(5), strict=True), estimator).means()
    expected = brute_force(module, images, labels if estimator == "empirical" else None)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-8)


def test_large_layers_are_taken_in_pieces(monkeypatch):
    module, given = convolutional(), [data()]
    whole = fisher_sums(module, given).means()
    monkeypatch.setattr("amalgam.tasks.merging.statistics.by_layer.MOST_NUMBERS", 100)
    for name, total in fisher_sums(module, given).means().items():
        torch.testing.assert_close(total, whole[name])


def test_fisher_of_softmax_regression_has_its_closed_form():
    torch.manual_seed(0)
    module = nn.Linear(5, 3)
    x = torch.randn(20, 5)
    p = module(x).softmax(1).detach()
    found = fisher_sums(module, [(x, torch.zeros(20, dtype=torch.long))]).means()
    torch.testing.assert_close(found["bias"], (p * (1 - p)).mean(0))
    torch.testing.assert_close(found["weight"], torch.einsum("bc,bi->ci", p * (1 - p), x.square()) / 20)


def test_sampled_fisher_is_unbiased_and_the_batch_estimator_is_another_quantity():
    module, (images, labels) = network(), data(6)
    exact = fisher_sums(module, [(images, labels)]).means()["6.bias"]
    drawn = torch.stack([fisher_sums(module, [(images, labels)], "sampled", s).means()["6.bias"] for s in range(300)])
    assert ((drawn.mean(0) - exact).abs() < 5 * drawn.std(0) / 300**0.5).all()
    batch = fisher_sums(module, [(images, labels)], "batch").means()["6.bias"]
    assert not torch.allclose(batch, exact, rtol=0.3)


def test_grams_are_those_of_the_layers_inputs():
    module, (images, _) = network(), data()
    found = gram_sums(module, images.split(5)).means()
    flat = module[:4](images).double()
    torch.testing.assert_close(found["4.weight"], (flat.T @ flat / len(images)).float(), rtol=1e-5, atol=1e-6)
    assert set(found) == {"4.weight", "6.weight"}


@pytest.mark.parametrize("num_shards", [1, 8])
def test_shards_in_any_order_give_the_same_numbers_to_the_bit(num_shards):
    module, (images, labels) = network(), data(16)
    shards = {
        number: fisher_sums(module, [(x, y)])
        for number, (x, y) in enumerate(zip(images.chunk(num_shards), labels.chunk(num_shards), strict=True))
    }
    backwards = dict(reversed(shards.items()))
    one, other = added(shards), added(backwards)
    assert one.num_examples == other.num_examples == 16
    assert all(torch.equal(one[name], other[name]) for name in one)
    whole = fisher_sums(module, [(images, labels)])
    for name in whole:
        torch.testing.assert_close(one[name], whole[name], rtol=1e-5, atol=1e-9)


def test_sums_of_other_networks_are_not_added():
    with pytest.raises(ValueError, match="'a'"):
        added({0: Sums({"a": torch.ones(1)}, 1), 1: Sums({"b": torch.ones(1)}, 1)})
    with pytest.raises(ValueError, match="examples"):
        Sums({}, 0).means()


def test_projected_gradients_give_the_projection_of_the_full_fisher():
    base, members, (images, labels) = network(), [network(1), network(2)], data()
    atoms, _ = named_basis(base.state_dict(), [m.state_dict() for m in members], 1)
    rows = projected_gradients(members[0], [(images, labels)], {"6.weight": atoms["6.weight"]}, "empirical")["6.weight"]
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        loss = members[0](image[None]).log_softmax(1)[0, label]
        (slope,) = torch.autograd.grad(loss, [members[0][6].weight])
        torch.testing.assert_close(rows[place], atoms["6.weight"].coordinates(slope), rtol=1e-4, atol=1e-6)
    exact = projected_gradients(members[0], [(images, labels)], {"6.weight": atoms["6.weight"]})["6.weight"]
    assert exact.shape == (48, 2)


def test_gradients_projected_on_a_named_basis_merge_there_and_nowhere_else():
    base, members, (images, labels) = network(), [network(1), network(2)], data()
    states = [m.state_dict() for m in members]
    atoms, name = named_basis(base.state_dict(), states, 1)
    rows = tuple(projected_gradients(m, [(images, labels)], atoms) for m in members)
    known = Statistics(projected=rows, basis=name)
    merged = merge(base.state_dict(), states, EpiMer(curvature="projected", rank=1), known)
    assert torch.isfinite(merged["6.weight"]).all()
    with pytest.raises(ValueError, match="another basis"):
        merge(base.state_dict(), states, EpiMer(curvature="projected", rank=2), known)
    with pytest.raises(ValueError, match="another basis"):
        merge(network(7).state_dict(), states, EpiMer(curvature="projected", rank=1), known)


def test_staged_statistics_merge_and_know_their_weights():
    base, members = network(), [network(1), network(2)]
    known = stage(members, [[data(seed=s)] for s in (1, 2)])
    states = [m.state_dict() for m in members]
    for method in (EpiMer(), EpiMer(curvature="factored"), RegMean()):
        assert torch.isfinite(merge(base.state_dict(), states, method, known)["6.weight"]).all()
    with pytest.raises(ValueError, match="other weights"):
        merge(base.state_dict(), [states[0], base.state_dict()], EpiMer(), known)
    assert factored(known.fisher[0])["6.weight"].shape == (10,)


def test_reg_mean_plus_plus_reads_the_inputs_that_merged_layers_give():
    members, inputs = [network(1), network(2)], [[data(40, seed=s)[0]] for s in (1, 2)]
    states = [m.state_dict() for m in members]
    merged = merge(None, states, RegMeanPlusPlus(off_diagonal=1.0), MergedBelow(network(), states, inputs))
    twin = network()
    twin.load_state_dict(merged)
    top = bottom = 0
    for state, (batch,) in zip(states, inputs, strict=True):
        x = twin[:6](batch).detach().double()
        top, bottom = top + x.T @ x @ state["6.weight"].double().T, bottom + x.T @ x
    expected = torch.linalg.solve(bottom, top).T.float()
    torch.testing.assert_close(merged["6.weight"], expected, rtol=1e-3, atol=1e-4)


def test_probe_embedding_is_the_mean_output():
    module, (images, _) = network(), data()
    torch.testing.assert_close(mean_output(module, images), module(images).mean(0).double())
