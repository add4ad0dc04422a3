"""Training of some entries: the others are the same to the bit, whatever the optimiser decays or remembers."""

import pytest
import torch
from torch import nn

from amalgam.tasks.data.pixels import in_memory
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.loop import train
from amalgam.tasks.training.optimizers import optimizer

OPTIMISERS = [
    {"optimizer": "adam"},
    {"optimizer": "adamw"},
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "adam", "precision": "bf16"},
]


def images(count=60):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 1, 4, 4), generator=generator).to(torch.uint8)
    return in_memory(pixels, torch.arange(count) % 3, ("a", "b", "c"))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def drawn(module, share=0.3):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(p.shape, generator=generator) < share for name, p in module.named_parameters()}


def trained(module, masks, **settings):
    config = TrainConfig(**{"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "weight_decay": 0.1} | settings)
    return train(module, images(), range(48), range(48, 60), config, 0, log=lambda *_: None, masks=masks).module


@pytest.mark.parametrize("settings", OPTIMISERS)
def test_masked_entries_stay_to_the_bit_and_the_others_move(settings):
    start = network()
    masks = drawn(start)
    before, after = start.state_dict(), trained(start, masks, **settings).state_dict()
    for name, mask in masks.items():
        assert torch.equal(after[name][~mask], before[name][~mask])
        assert (after[name][mask] != before[name][mask]).all()


@pytest.mark.parametrize("settings", OPTIMISERS)
@pytest.mark.usefixtures("one_thread")
def test_all_entries_are_ordinary_training(settings):
    start = network()
    full = {name: torch.ones_like(p, dtype=torch.bool) for name, p in start.named_parameters()}
    masked, plain = trained(start, full, **settings), trained(start, None, **settings)
    for a, b in zip(masked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_no_entries_are_the_base():
    start = network()
    none = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in start.named_parameters()}
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), trained(start, none).parameters(), strict=True))


def test_moments_are_kept_of_trained_entries_alone():
    start = network()
    masks = drawn(start)
    made = optimizer(start, TrainConfig(optimizer="adamw"), masks)
    start(torch.randn(4, 1, 4, 4)).sum().backward()
    made.step()
    sizes = [state["exp_avg"].numel() for state in made.state_dict()["state"].values()]
    assert sizes == [int(mask.sum()) for mask in masks.values()]


def test_clipping_sees_the_gradients_of_trained_entries_alone():
    start = network()
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in start.named_parameters()}
    masks["3.bias"][:] = True
    other = network()
    for name, parameter in other.named_parameters():
        parameter.requires_grad_(name == "3.bias")
    masked = trained(start, masks, optimizer="sgd", clip_norm=1e-3, weight_decay=0.0)
    plain = trained(other, None, optimizer="sgd", clip_norm=1e-3, weight_decay=0.0)
    torch.testing.assert_close(masked[3].bias, plain[3].bias)


@pytest.mark.usefixtures("one_thread")
def test_a_masked_run_cut_short_ends_with_the_same_weights():
    start, states = network(), []
    masks, config = drawn(start), TrainConfig(epochs=4, batch_size=16, learning_rate=0.01)
    given = (images(), range(48), range(48, 60), config, 0)
    whole = train(start, *given, log=lambda *_: None, masks=masks, save=states.append).module
    resumed = train(start, *given, log=lambda *_: None, masks=masks, resume=states[1]).module
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_masks_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"'9\.weight'"):
        trained(network(), {"9.weight": torch.ones(3, dtype=torch.bool)})
