"""Few-shot training: losses with gradients, pseudo-labels by id, translations to the class wanted, resumable runs."""

import pytest
import torch
from sklearn.datasets import load_digits

from amalgam.tasks.imaging.few_shot import losses
from amalgam.tasks.imaging.few_shot.augment import strong, weak
from amalgam.tasks.imaging.few_shot.config import METHODS, FewShotConfig
from amalgam.tasks.imaging.few_shot.networks import Critic, Generator
from amalgam.tasks.imaging.few_shot.training import Shots, train_few_shot

QUICK = {"epochs": 3, "steps": 3, "batch_size": 16, "width": 8, "warm_up": 0.3}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def digits(shots=5):
    data = load_digits()
    images, labels = (
        torch.tensor(data.images[:400], dtype=torch.float32)[:, None] / 8 - 1,
        torch.tensor(data.target[:400]),
    )
    few = torch.cat([torch.nonzero(labels == digit).flatten()[:shots] for digit in range(10)])
    return Shots(images[few], labels[few], images, 10), images, labels


def test_mutual_divergence_is_zero_for_agreement_and_pulls_on_every_network():
    first, second = noise(4, 3).requires_grad_(), noise(4, 3, seed=1).requires_grad_()
    assert losses.mutual_divergence([first, first]).item() == pytest.approx(0, abs=1e-6)
    losses.mutual_divergence([first, second]).backward()
    assert first.grad.abs().sum() > 0 and second.grad.abs().sum() > 0


def test_mutual_divergence_is_that_of_torch():
    logits = [noise(4, 3), noise(4, 3, seed=1)]
    p, q = (each.log_softmax(1) for each in logits)
    expected = sum(
        torch.nn.functional.kl_div(b, a, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p))
    )
    torch.testing.assert_close(losses.mutual_divergence(logits), expected)


def test_entropy_is_greatest_for_equal_logits():
    assert losses.entropy(torch.zeros(2, 7)).item() == pytest.approx(torch.tensor(7.0).log().item())
    assert losses.entropy(noise(2, 7)) < losses.entropy(torch.zeros(2, 7))


def test_predictions_that_agree_within_classes_have_no_prototype_loss():
    labels = torch.tensor([0, 1, 0, 1])
    same = noise(2, 5)[labels]
    assert losses.prototype_loss(same, labels, 2.0).item() == pytest.approx(0, abs=1e-12)
    assert losses.prototype_loss(noise(4, 5), labels, 2.0) > 0


def test_a_linear_critic_of_slope_one_has_no_gradient_penalty():
    class Slope(torch.nn.Module):
        def forward(self, x):
            return type("Judged", (), {"realness": x.flatten(1) @ torch.eye(x[0].numel())[0]})

    real, fake = noise(3, 1, 4, 4), noise(3, 1, 4, 4, seed=1)
    assert losses.gradient_penalty(Slope(), real, fake, torch.rand(3)).item() == pytest.approx(0, abs=1e-12)


def test_the_gradient_penalty_reaches_the_critic():
    critic = Critic(3, 1, 8)
    losses.gradient_penalty(critic, noise(2, 1, 8, 8), noise(2, 1, 8, 8, seed=1), torch.rand(2)).backward()
    assert critic.features[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (1, 15, 9)])
def test_translations_have_the_shape_of_images_and_depend_on_the_class(shape):
    generator, images = Generator(4, shape[0], 8), noise(2, *shape)
    first, second = (generator(images, torch.full((2,), label)) for label in (0, 1))
    assert first.shape == images.shape and first.abs().max() <= 1 and not torch.equal(first, second)


@pytest.mark.parametrize("augment", [weak, strong])
def test_augmented_images_stay_images_and_follow_the_generator(augment):
    images = noise(5, 1, 12, 12).tanh()
    first, second = (augment(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == images.shape and first.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_run_cut_short_ends_with_the_same_weights(method):
    shots, _, _ = digits()
    config, states = FewShotConfig(method=method, **QUICK), []
    whole = train_few_shot(config, shots, seed=0, save=states.append)
    resumed = train_few_shot(config, shots, seed=0, resume=states[1])
    for name, network in vars(whole).items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, getattr(resumed, name).state_dict()[key]), (name, key)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_digits_from_five_of_each(method):
    shots, images, labels = digits()
    config = FewShotConfig(method=method, epochs=6, steps=15, width=16, learning_rate=3e-3)
    networks = train_few_shot(config, shots, seed=0)
    accuracy = (networks.logits(images)[0].argmax(1) == labels).float().mean().item()
    assert accuracy > 0.5


def test_translation_trains_the_generator_and_only_sparse_does():
    shots, _, _ = digits()
    weights = {
        method: train_few_shot(FewShotConfig(method=method, **QUICK), shots, seed=0).generator.state_dict()
        for method in ("self-training", "fixmatch", "sparse")
    }
    same = [torch.equal(weights["fixmatch"][key], weights["self-training"][key]) for key in weights["sparse"]]
    changed = [not torch.equal(weights["fixmatch"][key], weights["sparse"][key]) for key in weights["sparse"]]
    assert all(same) and any(changed)


@pytest.mark.parametrize("method", ["self-training", "sparse"])
def test_only_the_pseudo_labels_that_are_kept_are_learned_from(method):
    def weights(quantile, unlabelled):
        shots = Shots(*[digits()[0].labelled, digits()[0].labels], unlabelled, 10)
        config = FewShotConfig(method=method, quantile=quantile, **QUICK)
        return train_few_shot(config, shots, seed=0).classifier.head[-1].weight

    images, others = digits()[1], noise(400, 1, 8, 8).tanh()
    assert torch.equal(weights(1.0, images), weights(1.0, others))  # the least certain 100 % are left out
    assert not torch.equal(weights(0.75, images), weights(0.75, others))


LOSSES = {
    "mutual": lambda logits, labels: losses.mutual_divergence([logits, logits.flip(0)]),
    "entropy": lambda logits, labels: losses.entropy(logits),
    "prototype": lambda logits, labels: losses.prototype_loss(logits, labels, 2.0),
    "mixup": lambda logits, labels: losses.mixup_loss(
        torch.nn.Identity(), logits, labels, 0.3, torch.arange(3, -1, -1)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_losses_are_those_of_finite_differences_and_none_is_lost(name):
    logits, labels = noise(4, 3).double().requires_grad_(), torch.tensor([0, 1, 0, 2])
    assert torch.autograd.gradcheck(lambda each: LOSSES[name](each, labels), logits)
    LOSSES[name](logits, labels).backward()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("augment", [weak, strong])
def test_images_are_augmented_on_their_own_device(augment):
    images = torch.zeros(2, 1, 8, 8, device="meta")  # raises for tensors of two devices, as CUDA does
    assert augment(images, torch.Generator().manual_seed(0)).device == images.device


@pytest.mark.parametrize(
    "field, value", [("method", "gan"), ("epochs", 0), ("threshold", 1.5), ("temperature", 0), ("width", 6)]
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"(?s){field}.*input_value={value!r}"):
        FewShotConfig(**{field: value})
