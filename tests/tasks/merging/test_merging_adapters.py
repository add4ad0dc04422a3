"""LoRA adapters: the mean of factors is not the mean of products, and each space does what it says."""

import pytest
import torch

from amalgam import Average, KnOTS, TaskArithmetic, Ties
from amalgam.tasks.merging.adapters import Adapter, merge_adapters, products

A, B = "model.q_proj.lora_A.weight", "model.q_proj.lora_B.weight"


def adapters(count=3, rank=2, scaling=0.5):
    generator = torch.Generator().manual_seed(rank)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [Adapter({A: random(rank, 9), B: random(8, rank)}, scaling) for _ in range(count)]


def product(adapter):
    (found,) = products(adapter).values()
    return found


def test_mean_of_factors_is_not_the_mean_of_products():
    members = adapters()
    by_factors = merge_adapters(members, Average(), "factors")
    by_products = merge_adapters(members, Average(), "product", rank=6)
    mean = sum(product(member) for member in members) / 3
    torch.testing.assert_close(by_factors.state[A], sum(m.state[A] for m in members) / 3)
    torch.testing.assert_close(product(Adapter(by_products.state, by_products.scaling)), mean)
    assert not torch.allclose(product(Adapter(by_factors.state, by_factors.scaling)), mean)
    assert by_products.residual == pytest.approx({"model.q_proj.weight": 0}, abs=1e-12)


def test_a_shared_factor_makes_both_spaces_agree():
    members = [Adapter({**m.state, A: adapters()[0].state[A]}, 0.5) for m in adapters()]
    one, other = (merge_adapters(members, Average(), space) for space in ("factors", "product"))
    torch.testing.assert_close(product(Adapter(one.state, 0.5)), product(Adapter(other.state, 0.5)))


def test_cut_rank_is_the_best_and_its_loss_is_stated():
    members = adapters()
    merged = merge_adapters(members, TaskArithmetic(scale=1.0))
    total = sum(product(member) for member in members)
    values = torch.linalg.svdvals(total)
    expected = float(values[2:].square().sum().sqrt() / values.square().sum().sqrt())
    assert merged.residual["model.q_proj.weight"] == pytest.approx(expected)
    assert merged.state[A].shape == (2, 9)


@pytest.mark.parametrize("method", [Ties(density=1.0), KnOTS(density=1.0)])
def test_copies_of_an_adapter_give_its_product_back(method):
    member = adapters(1)[0]
    merged = merge_adapters([member] * 3, method)
    torch.testing.assert_close(product(Adapter(merged.state, merged.scaling)), product(member))


@pytest.mark.parametrize("space", ["product", "factors"])
def test_other_ranks_scalings_and_layers_are_refused(space):
    one = adapters(1)
    with pytest.raises(ValueError, match=r"rank 3.*2"):
        merge_adapters([*one, *adapters(1, rank=3)], Average(), space)
    with pytest.raises(ValueError, match="scaling"):
        merge_adapters([*one, *adapters(1, scaling=1.0)], Average(), space)
    with pytest.raises(ValueError, match="k_proj"):
        other = Adapter({name.replace("q_proj", "k_proj"): t for name, t in one[0].state.items()}, 0.5)
        merge_adapters([*one, other], Average(), space)


def test_adapters_of_other_ranks_and_scalings_merge_as_products_at_a_stated_rank():
    members = [*adapters(1), *adapters(1, rank=3, scaling=2.0)]
    merged = merge_adapters(members, Average(), rank=5)
    torch.testing.assert_close(
        product(Adapter(merged.state, merged.scaling)), (product(members[0]) + product(members[1])) / 2
    )
