"""The laws of training: resumable to the bit, zeros stay zero, the best epoch wins, arguments are left alone."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.loading import normalise
from amalgam.tasks.data.splits import hold_out
from amalgam.tasks.models import ModelSpec, build
from amalgam.tasks.scoring.logits import predict
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.loop import train
from amalgam.tasks.training.objective import Objective

SGD = TrainConfig(epochs=3, optimizer="sgd", learning_rate=0.05, momentum=0.9, weight_decay=5e-4, batch_size=32)
CONFIGS = {
    "adam": TrainConfig(epochs=3, weight_decay=1e-4, batch_size=32),
    "adamw": TrainConfig(epochs=3, optimizer="adamw", weight_decay=0.1, batch_size=32, label_smoothing=0.1),
    "sgd": SGD.model_copy(update={"schedule": "cosine", "warmup_epochs": 0.5, "augment": "crop_flip"}),
    "bf16": SGD.model_copy(update={"precision": "bf16", "clip_norm": 1.0}),
    "fp16": SGD.model_copy(update={"precision": "fp16", "clip_norm": 1.0}),
}


@pytest.fixture(scope="module")
def digits():
    return load(DataSpec(name="digits"), "train")


@pytest.fixture(scope="module")
def parts(digits):
    return hold_out(digits.labels.numpy(), 0.2, seed=0)


@pytest.fixture
def network():
    """Everything that keeps a state of its own or draws at random: batch norm, dropout, convolutions."""
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(*convolutions, nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def silent(metrics, step):
    pass


def reloaded(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def assert_same_weights(first, second):
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_run_resumed_after_any_epoch_is_the_run_never_interrupted(config, network, digits, parts):
    states, logged = [], []
    whole = train(network, digits, *parts, config, 7, log=lambda m, e: logged.append((m, e)), save=states.append)
    for state in states:
        again = []
        log = lambda metrics, epoch, again=again: again.append((metrics, epoch))  # noqa: E731
        resumed = train(network, digits, *parts, config, 7, log=log, resume=reloaded(state))
        assert_same_weights(whole.module, resumed.module)
        assert (again, resumed.best_epoch) == (logged, whole.best_epoch)


def test_the_network_and_the_random_state_are_left_alone(network, digits, parts):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.random.get_rng_state()
    first = train(network, digits, *parts, SGD, 1, log=silent)
    torch.rand(5)
    assert_same_weights(first.module, train(network, digits, *parts, SGD, 1, log=silent).module)
    torch.random.set_rng_state(random_state)
    other = train(network, digits, *parts, SGD, 2, log=silent)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert not torch.equal(first.module[-1].weight, other.module[-1].weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_structural_zeros_stay_exactly_zero(config, network, digits, parts):
    support = {name: torch.rand(p.shape) < 0.5 for name, p in network.named_parameters() if p.dim() > 1}
    with torch.no_grad():
        for name, allowed in support.items():
            network.get_parameter(name).mul_(allowed)
    trained = train(network, digits, *parts, config, 0, log=silent, support=support).module
    for name, allowed in support.items():
        parameter = trained.get_parameter(name)
        assert (parameter[~allowed] == 0).all() and (parameter[allowed] != 0).all()
        assert not torch.equal(parameter, network.get_parameter(name))


def test_one_step_is_the_optimisers_step_on_the_mean_loss(digits):
    indices = torch.arange(100)
    config = TrainConfig(epochs=1, batch_size=100, optimizer="sgd", learning_rate=0.1, label_smoothing=0.2)
    network = build(ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8)), seed=0)
    trained = train(network, digits, indices, indices, config, 0, log=silent).module
    logits = network(normalise(digits.batch(indices)))
    loss = cross_entropy(logits, digits.labels[indices], label_smoothing=0.2)
    for parameter, gradient, after in zip(
        network.parameters(), torch.autograd.grad(loss, list(network.parameters())), trained.parameters(), strict=True
    ):
        torch.testing.assert_close(after, parameter - 0.1 * gradient)


def test_the_best_epoch_is_that_of_highest_validation_accuracy_then_lowest_nll(network, digits, parts):
    history = []
    config = TrainConfig(epochs=8, optimizer="sgd", learning_rate=1.0)
    trained = train(network, digits, *parts, config, 0, log=lambda m, e: history.append(m))
    ranks = [(-m["validation/accuracy"], m["validation/nll"]) for m in history]
    assert trained.best_epoch == 1 + ranks.index(min(ranks)) and trained.epochs_trained == 8
    hits = predict(trained.module, digits, parts[1]).argmax(1) == digits.labels[parts[1]]
    assert hits.double().mean().item() == max(m["validation/accuracy"] for m in history)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_recipe_learns_digits(config, digits, parts):
    network = build(ModelSpec(name="resnet18", num_classes=10, in_shape=(1, 8, 8), options={"width": 0.125}), 0)
    history = []
    config = config.model_copy(update={"augment": "none"})  # a mirrored digit is another sign
    train(network, digits, *parts, config, 0, log=lambda m, e: history.append((m, e)))
    names = {"train/loss", "train/accuracy", "train/learning_rate", "validation/accuracy", "validation/nll"}
    assert [epoch for _, epoch in history] == [1, 2, 3] and all(set(m) == names for m, _ in history)
    assert history[-1][0]["validation/accuracy"] > 0.8


@pytest.mark.slow
def test_one_epoch_of_mnist_teaches_most_of_it(load_real):
    images, test = load_real("mnist")
    network = build(ModelSpec(name="mlp", num_classes=10, in_shape=images.shape), seed=0)
    parts = hold_out(images.labels.numpy(), 0.1, seed=0)
    trained = train(network, images, *parts, TrainConfig(epochs=1), 0, log=silent).module
    hits = predict(trained, test, range(len(test))).argmax(1) == test.labels
    assert hits.double().mean() > 0.93


@pytest.mark.parametrize("warm, warmup", [({}, 0), ({"warmup_epochs": 2}, 10), ({"warmup_steps": 7}, 7)])
def test_the_cosine_schedule_is_that_of_torch(warm, warmup):
    config = TrainConfig(epochs=6, learning_rate=0.1, schedule="cosine", **warm)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30 - warmup)
    for step in range(30):
        if step < warmup:
            assert config.learning_rate_at(step, 5) == pytest.approx(0.1 * (step + 1) / warmup)
        else:
            assert config.learning_rate_at(step, 5) == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            cosine.step()


@pytest.mark.parametrize("epochs", [1, 3, 200])
def test_the_rate_begins_low_peaks_after_the_warm_up_and_ends_near_zero(epochs):
    config = TrainConfig(epochs=epochs, learning_rate=0.1, schedule="cosine", warmup_steps=500)
    total = 5 * epochs
    rates = [config.learning_rate_at(step, 5) for step in range(total)]
    warmup = min(500, total)  # as in the public code of SAE-FT
    assert rates[0] == pytest.approx(0.1 / warmup) and max(rates) == rates[warmup - 1] == pytest.approx(0.1)
    assert total == warmup or rates[-1] < 1e-5 * 0.1 * 10


def test_clipping_bounds_the_step(digits):
    network = build(ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8)), seed=0)
    config = TrainConfig(epochs=1, batch_size=900, optimizer="sgd", learning_rate=1.0, clip_norm=0.01)
    trained = train(network, digits, range(900), range(900), config, 0, log=silent).module
    moved = torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), trained.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_names_epoch_and_step(network, digits, parts):
    config = TrainConfig(epochs=3, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(ValueError, match=r"(nan|inf) .*epoch 1, step 2,.* \d+, .*learning_rate"):
        train(network, digits, *parts, config, 0, log=silent)


class Spoilt(Objective):
    """Gives no number at one step of the third epoch, and counts how often it is asked after that."""

    asked_after = -1

    def __call__(self, module, batch, epoch):
        logits, loss = super().__call__(module, batch, epoch)
        self.asked_after += epoch == 3
        return logits, loss * float("nan") if epoch == 3 and self.asked_after == 0 else loss


def test_a_run_with_a_non_finite_loss_stops_at_once_and_leaves_a_sound_state(network, digits, parts):
    states, spoilt = [], Spoilt()
    whole = train(network, digits, *parts, SGD, 0, log=silent)
    with pytest.raises(ValueError, match=r"nan .*epoch 3, step 1,"):
        train(network, digits, *parts, SGD, 0, log=silent, objective=spoilt, save=states.append)
    assert spoilt.asked_after == 1  # the loss of a step is looked at when the next one has been computed
    resumed = train(network, digits, *parts, SGD, 0, log=silent, resume=reloaded(states[-1]))
    assert len(states) == 2
    assert_same_weights(whole.module, resumed.module)


def test_non_finite_weights_are_never_saved(network, digits):
    states, batch = [], range(100)
    config = TrainConfig(epochs=2, batch_size=100, optimizer="sgd", learning_rate=1e38)
    with pytest.raises(ValueError, match=r"validation.* (nan|inf) .*epoch 1.*learning_rate"):
        train(network, digits, batch, batch, config, 0, log=silent, save=states.append)
    assert not states


class Wide(nn.Module):
    """In float64, where sums in another order agree to 1e-12."""

    def __init__(self, network):
        super().__init__()
        self.network = network.double()

    def forward(self, images):
        return self.network(images.double())


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_batch_in_parts_makes_the_step_of_the_whole_batch(name, digits, parts):
    network = build(ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8)), seed=0)
    whole = CONFIGS[name].model_copy(update={"clip_norm": 1.0})
    histories = []
    for accumulate in (1, 4, 5):
        history = []
        config = whole.model_copy(update={"accumulate": accumulate})
        trained = train(Wide(network), digits, *parts, config, 0, log=lambda m, e, h=history: h.append(m)).module
        histories.append((history, trained.state_dict()))
    for history, state in histories[1:]:
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, histories[0][1][name], rtol=1e-9, atol=1e-12)
        assert [m["validation/nll"] for m in history] == pytest.approx([m["validation/nll"] for m in histories[0][0]])
        assert [m["train/loss"] for m in history] == pytest.approx([m["train/loss"] for m in histories[0][0]])


@pytest.mark.slow
def test_a_compiled_network_trains_as_it_does_uncompiled(digits, parts):
    network = build(ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8)), seed=0)
    config = TrainConfig(epochs=1, batch_size=72, optimizer="sgd", learning_rate=0.1)
    runs = [train(network, digits, *parts, config, 0, log=silent, compiler=each).module for each in (None, "aot_eager")]
    for name, tensor in runs[0].state_dict().items():
        torch.testing.assert_close(runs[1].state_dict()[name], tensor)
    assert copy.deepcopy(runs[1])(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    "indices, validation_indices, message",
    [
        ([], [0], "the training split is empty"),
        ([0, 0], [0], "training split .* only class"),
        ([0, 1], [], "the validation split is empty"),
    ],
)
def test_splits_nothing_can_be_learnt_from_are_refused(network, digits, indices, validation_indices, message):
    with pytest.raises(ValueError, match=message):
        train(network, digits, indices, validation_indices, SGD, 0, log=silent)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"momentum": 0.9}, "momentum 0.9 with 'adam'"),
        ({"epochs": 5, "warmup_epochs": 5}, "warmup_epochs must be below epochs"),
        ({"warmup_epochs": 1, "warmup_steps": 5}, "give warm-up in steps or in epochs, not both"),
        ({"batch_size": 4, "accumulate": 5}, "accumulate .*, got 5"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)
