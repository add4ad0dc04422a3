"""Laws of training sparse autoencoders."""

import io
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import mse_loss, normalize

from amalgam.tasks.sae.autoencoder import initial, unit_norm
from amalgam.tasks.sae.config import REFERENCE_RECIPE, SAESpec, SAETrainConfig
from amalgam.tasks.sae.metrics import QualityMeter, matched_cosines, recovered
from amalgam.tasks.sae.rules import Gated, JumpReLU, Matryoshka, ReLU, TopK, num_active, varied
from amalgam.tasks.sae.training.resampling import resample
from amalgam.tasks.sae.training.stack import Stack
from amalgam.tasks.sae.training.train import mean_and_variance, train
from tests.tasks.sae.planted import ABOUT, RULES, info, planted

SHORT = SAETrainConfig(epochs=3, batch_size=64, dead_after=0.5)
RELATED = tuple(rule.model_copy(update={varied(rule): getattr(rule, varied(rule)) * 2}) for rule in RULES)


def quiet(metrics, epoch):
    pass


def specs(rules=RULES, seeds=(1,), expansion=4):
    return [SAESpec(sparsity=rule, expansion=expansion, seed=seed) for rule in rules for seed in seeds]


def stack(rule, config=SHORT, count=1):
    """Untrained autoencoders as a stack, planted features and their variance."""
    x = planted(128)[0]
    mean, variance = mean_and_variance(x)
    return Stack([initial(info(rule), config, mean, seed=s) for s in range(1, count + 1)], config), x, variance


EVERY_RULE_AND_A_SECOND_SEED = [*specs(), SAESpec(sparsity=RULES[0], seed=2)]


@pytest.fixture(scope="module")
def recovery():
    """Autoencoders of every rule and one of another seed, trained at once on planted features."""
    x, atoms = planted()
    history = []
    config = SAETrainConfig(epochs=None, steps=400, batch_size=256)
    saes = train(x, ABOUT, EVERY_RULE_AND_A_SECOND_SEED, config, log=lambda m, epoch: history.append(m))
    return x, atoms, saes, history


@pytest.mark.slow
def test_a_planted_dictionary_is_recovered_by_every_rule(recovery):
    x, atoms, saes, history = recovery
    found = {}
    for spec, sae in zip(EVERY_RULE_AND_A_SECOND_SEED, saes, strict=True):
        assert recovered(atoms, sae.decoder.detach()).mean() > 0.9, spec.name
        torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(64), rtol=1e-6, atol=1e-6)
        meter = QualityMeter(sae)
        meter.update(x)
        # The last epoch's mean lags the last step, and thresholds stand in for ranks outside training.
        assert meter.result().fvu == pytest.approx(history[-1][f"{spec.name}/fvu"], rel=0.05)
        found[spec.sparsity.kind] = meter.result()
        if num_active(spec.sparsity):
            assert meter.result().l0 == pytest.approx(2, rel=0.1)
    # Of as many latents, those of a gate are not shrunk by the penalty.
    assert found["gated"].l0 == pytest.approx(found["relu"].l0, rel=0.1) and found["gated"].l0 < 4
    assert found["gated"].fvu < found["relu"].fvu / 3


def test_two_seeds_find_much_the_same_atoms(recovery):
    _, _, saes, _ = recovery
    random = matched_cosines(*unit_norm(torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0)))).mean()
    assert matched_cosines(saes[0].decoder.detach(), saes[-1].decoder.detach()).mean() > random + 0.1


def test_our_recipe_leaves_less_error_than_the_reference_recipe():
    x = planted(2048)[0]
    found = {}
    for name, config in (("ours", SAETrainConfig()), ("reference", REFERENCE_RECIPE)):
        config = config.model_copy(update={"epochs": None, "steps": 150, "batch_size": 256})
        (sae,) = train(x, ABOUT, [SAESpec(sparsity=TopK(k=2, signed=name == "reference"))], config, log=quiet)
        meter = QualityMeter(sae)
        meter.update(x)
        found[name] = meter.result().fvu
    assert found["ours"] < found["reference"]


def test_the_reference_recipe_is_the_plain_loop_of_the_paper():
    x, rule = planted(128)[0].double(), TopK(k=3, signed=True)
    config = REFERENCE_RECIPE.model_copy(update={"epochs": 20, "batch_size": 128})
    curve = []
    spec = SAESpec(sparsity=rule, seed=3)
    (sae,) = train(x, ABOUT, [spec], config, log=lambda m, epoch: curve.append(m[f"{spec.name}/fvu"]))
    start = initial(info(rule), config, x.mean(0), seed=3).double()
    w, d, b = (p.detach().clone().requires_grad_() for p in (start.encoder, start.decoder, start.bias))
    optimizer, losses = torch.optim.AdamW([w, d, b], lr=1e-3), []
    for _ in range(20):
        pre = (x - b) @ w.T
        mask = torch.zeros_like(pre).scatter(1, pre.topk(3).indices, 1.0)
        # The paper's loss without the constant that AdamW's eps would feel in gradients near 0.
        loss = mse_loss((pre * mask) @ d + b, x) * 16 / mean_and_variance(x)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert curve == pytest.approx(losses, rel=1e-9)
    torch.testing.assert_close(sae.decoder.detach(), d.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sae.encoder.detach(), w.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("rule", "other"), list(zip(RULES, RELATED, strict=True)), ids=str)
def test_an_autoencoder_of_a_sweep_is_the_one_trained_alone(rule, other):
    x = planted(256)[0].double()
    sweep = [*specs([rule, other], seeds=(1, 2)), *specs([rule], expansion=2)]
    together = train(x, ABOUT, sweep, SHORT, log=quiet)
    for spec, sae in zip(sweep, together, strict=True):
        (alone,) = train(x, ABOUT, [spec], SHORT, log=quiet)
        assert alone.info == sae.info == spec.info(ABOUT)
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(sae.get_parameter(name), parameter, rtol=1e-9, atol=1e-9)


def test_many_autoencoders_of_large_batches_are_those_trained_alone():
    """Too many pre-activations for one stack on a CPU: three stacks of two, and one rest."""
    x = planted(256)[0].double()
    large, sweep = SHORT.model_copy(update={"batch_size": 1 << 15}), specs(RULES[:1], seeds=range(7))
    for spec, sae in zip(sweep, train(x, ABOUT, sweep, large, log=quiet), strict=True):
        (alone,) = train(x, ABOUT, [spec], large, log=quiet)
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(sae.get_parameter(name), parameter, rtol=1e-9, atol=1e-9)


def test_a_resumed_run_ends_with_the_same_bits():
    x, saved, whole, again = planted(256)[0], [], [], []
    log, relog = lambda m, e: whole.append((e, m)), lambda m, e: again.append((e, m))
    straight = train(x, ABOUT, specs(), SHORT, log=log, save=saved.append)
    buffer = io.BytesIO()
    torch.save(saved[0], buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    resumed = train(x, ABOUT, specs(), SHORT, log=relog, resume=state)
    assert whole == again and [epoch for epoch, _ in whole] == [1, 2, 3]
    for one, two in zip(straight, resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with pytest.raises(ValueError, match="specs"):
        train(x, ABOUT, specs(seeds=(5,)), SHORT, log=quiet, resume=state)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_the_order_of_examples_in_a_batch_does_not_matter(rule):
    losses = []
    for order in (torch.arange(128), torch.randperm(128, generator=torch.Generator().manual_seed(0))):
        one, x, variance = stack(rule, count=2)
        loss = one.loss(x[order], variance, 100)
        loss.total.sum().backward()
        losses.append((loss.total.detach(), one.decoder.grad, one.encoder.grad, one.silent))
    for first, second in zip(*losses, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_formula_written_out():
    one, x, variance = stack(Matryoshka(k=3, prefixes=(0.25, 1.0)))
    one, x = one.double(), x.double()
    w, d, b = (p[0].detach().clone().requires_grad_() for p in (one.encoder, one.decoder, one.bias))
    one.silent[:, 40:] = 1000
    one.loss(x, variance, dead_after=500).total.sum().backward()
    pre = (x - b) @ w.T
    rank = pre.argsort(1, descending=True).argsort(1)
    codes = torch.where((rank < 3) & (pre > 0), pre, 0.0)
    errors = [x - b - codes[:, :n] @ d[:n] for n in (16, 64)]
    loss = sum(e.pow(2).sum(1).mean() for e in errors) / 2 / variance
    dead = pre[:, 40:]
    helped = torch.where((dead.argsort(1, descending=True).argsort(1) < 8) & (dead > 0), dead, 0.0) @ d[40:]
    rest = errors[-1].detach()
    loss = loss + (rest - helped).pow(2).sum() / rest.pow(2).sum() / 32
    for ours, reference in zip((one.encoder, one.decoder, one.bias), torch.autograd.grad(loss, (w, d, b)), strict=True):
        torch.testing.assert_close(ours.grad[0], reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [ReLU(l1=0.7), Gated(l1=0.7)], ids=lambda rule: rule.kind)
def test_losses_and_gradients_of_penalised_rules_are_those_of_the_formulas(rule):
    one, x, variance = stack(rule)
    one, x = one.double(), x.double()
    draw = torch.Generator().manual_seed(0)
    for parameter in one.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    total = one.loss(x, variance, dead_after=1000).total.sum()
    total.backward()
    p = {name: parameter[0].detach().clone().requires_grad_() for name, parameter in one.named_parameters()}
    w, d, b, c = (p[name] for name in ("encoder", "decoder", "bias", "encoder_bias"))
    gate = (x - b) @ w.T + c
    loss = 0.7 * (gate.relu() * d.norm(dim=1)).sum(1).mean() / variance**0.5
    if rule.kind == "gated":
        codes = (gate > 0) * ((x - b) @ (w * p["log_scale"].exp()[:, None]).T + p["magnitude_bias"]).relu()
        loss = loss + (x - gate.relu() @ d.detach() - b.detach()).pow(2).sum(1).mean() / variance
    else:
        codes = gate.relu()
    loss = loss + (x - codes @ d - b).pow(2).sum(1).mean() / variance
    torch.testing.assert_close(total, loss)
    for name, gradient in zip(p, torch.autograd.grad(loss, list(p.values())), strict=True):
        torch.testing.assert_close(one.get_parameter(name).grad[0], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [TopK(k=2), JumpReLU(target_l0=2), Gated(l1=0.8)], ids=lambda rule: rule.kind)
def test_resampled_latents_point_to_badly_reconstructed_examples(rule):
    one, x, variance = stack(rule, count=2)
    optimizer = torch.optim.Adam([p for p in one.parameters() if p.requires_grad])
    one.loss(x, variance, 1000).total.sum().backward()
    optimizer.step()
    before = {name: p.detach().clone() for name, p in one.named_parameters()}
    one.silent[:] = 0
    one.silent[1, 10:20] = 1000
    resample(one, optimizer, x, dead_after=500, seed=3)
    for name, p in one.named_parameters():
        assert torch.equal(p[0], before[name][0]) and torch.equal(p[1, :10], before[name][1, :10])
    directions = unit_norm(x - one.bias[1])
    assert ((one.decoder[1, 10:20] @ directions.T).amax(1) > 0.999).all()
    assert not optimizer.state[one.decoder]["exp_avg"][1, 10:20].any() and not one.silent.any()


@pytest.mark.slow
def test_resampling_revives_latents_and_resumes_to_the_same_bits():
    x, dead, saved = planted(1024)[0], {}, []
    for resampled in (None, 4):
        config = SAETrainConfig(epochs=24, batch_size=64, dead_after=2, auxk_weight=0, resample=resampled)
        spec = SAESpec(sparsity=TopK(k=1), expansion=8)
        (sae,) = train(x, ABOUT, [spec], config, log=quiet, save=saved.append)
        dead[resampled] = QualityMeter(sae)
        dead[resampled].update(x)
    assert dead[4].result().dead_share < dead[None].result().dead_share / 2
    (again,) = train(x, ABOUT, [spec], config, log=quiet, resume=saved[-22])
    assert all(torch.equal(a, b) for a, b in zip(sae.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_what_dead_latents_add_to_gradients_is_the_formula_written_out(rule):
    """AuxK on its own: the difference between gradients with it and without."""
    gradients = []
    for weight in (0.5, 0.0):
        one, x, variance = stack(rule, SHORT.model_copy(update={"auxk_weight": weight}))
        one, x = one.double(), x.double()
        one.silent[:, 40:] = 1000
        one.loss(x, variance, dead_after=500).total.sum().backward()
        gradients.append([p.grad[0] for p in (one.encoder, one.decoder, one.bias)])
    w, d, b = (p[0].detach().clone().requires_grad_() for p in (one.encoder, one.decoder, one.bias))
    error = x - b.detach() - kept(one, rule, x) @ d.detach()
    dead = ((x - b) @ w.T)[:, 40:]
    helped = torch.where((dead.argsort(1, descending=True).argsort(1) < 8) & (dead > 0), dead, 0.0) @ d[40:]
    auxk = 0.5 * (error - helped).pow(2).sum() / error.pow(2).sum()
    for with_it, without, reference in zip(*gradients, torch.autograd.grad(auxk, (w, d, b)), strict=True):
        torch.testing.assert_close(with_it - without, reference, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def kept(one, rule, x):
    """Dense codes that a rule keeps of a batch in training, (batch, latents)."""
    pre = (x - one.bias[0]) @ one.encoder[0].T
    if rule.kind == "jump_relu":
        return torch.where(pre > one.threshold[0], pre, 0.0)
    if rule.kind in ("relu", "gated"):  # an untrained gate lets its own pre-activations through
        return pre.relu()
    if rule.kind == "batch_topk":
        least = pre.relu().flatten().topk(rule.k * len(x)).values[-1]
        return torch.where((pre >= least) & (pre > 0), pre, 0.0)
    return torch.where((pre.argsort(1, descending=True).argsort(1) < rule.k) & (pre > 0), pre, 0.0)


def test_the_kept_gradient_is_orthogonal_to_the_atoms_and_not_longer_than_allowed():
    one, x, variance = stack(TopK(k=3), count=2)
    one.loss(100 * x, variance, 100).total.sum().backward()
    one.shape_gradients()
    along = (one.decoder.grad * one.decoder).sum(-1)
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-6)
    for place in range(2):
        gradient = torch.cat([p.grad[place].flatten() for p in one.parameters() if p.grad is not None])
        assert gradient.norm().item() == pytest.approx(1, rel=1e-4)


def test_auxk_is_zero_when_nothing_is_dead():
    one, x, variance = stack(TopK(k=3))
    assert one.loss(x, variance, dead_after=1000).auxk.item() == 0
    assert one.loss(x, variance, dead_after=1).auxk.item() > 0  # some latents were silent in that batch


def killed(config):
    """Train 200 steps where only 16 latents live, fewer than the planted atoms: how many live then, and the FVU."""
    x = planted(1024)[0]
    mean, variance = mean_and_variance(x)
    sae = initial(info(TopK(k=2)), config, mean, seed=1)
    sae.encoder.data[16:] *= 1e-3
    one = Stack([sae], config)
    one.silent[:, 16:] = 10**6
    optimizer = torch.optim.Adam([p for p in one.parameters() if p.requires_grad], lr=3e-3)
    for step in range(200):
        optimizer.zero_grad()
        loss = one.loss(x[(step % 4) * 256 :][:256], variance, dead_after=2048)
        loss.total.sum().backward()
        one.shape_gradients()
        optimizer.step()
        one.restore_constraints()
    return (one.silent < 2048).sum().item(), loss.fvu.item()


def test_auxk_revives_dead_latents_that_stay_dead_without_it():
    (alive, fvu), (alive_without, fvu_without) = killed(SAETrainConfig()), killed(SAETrainConfig(auxk_weight=0))
    assert alive_without == 16
    assert alive >= 24
    assert fvu < fvu_without / 2


def test_atoms_have_norm_one_after_every_step():
    found = []
    train(planted(200)[0], ABOUT, specs(), SHORT, log=quiet, save=found.append)
    for state in found:
        for part in state["stacks"]:
            norms = part["decoder"].norm(dim=-1)
            torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 7, 1000])
def test_the_learning_rate_rises_to_its_peak_and_falls_towards_zero(num_steps):
    config = SAETrainConfig(learning_rate=1.0)
    rates = [config.learning_rate_at(step, num_steps, 64) for step in range(num_steps)]
    assert max(rates) == 1 and min(rates) > 0
    if num_steps == 1000:
        assert rates[0] == pytest.approx(1 / 100) and rates[99] == rates[800 - 1] == 1
        assert rates[-1] == pytest.approx(1 / 201)
    assert SAETrainConfig(warmup=0, decay=0).learning_rate_at(0, 9, 2048) == pytest.approx(5.7e-4, rel=0.01)


def test_reference_start_is_that_of_linear_layers():
    sae = initial(info(TopK(k=2)), REFERENCE_RECIPE, torch.ones(16), seed=3)
    assert not sae.bias.any() and sae.encoder.abs().max() <= 0.25
    assert not torch.allclose(normalize(sae.encoder, dim=1), sae.decoder)
    ours = initial(info(TopK(k=2)), SAETrainConfig(), torch.ones(16), seed=3)
    assert torch.equal(ours.encoder, ours.decoder) and (ours.bias == 1).all()


def test_half_precision_features_train_as_their_float32_copies():
    x = planted(256)[0].half()
    one, two = (train(z, ABOUT, specs()[:1], SHORT, log=quiet)[0] for z in (x, x.float()))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :8], "width 16"),
        (lambda x: 10 * x, "norm"),
        (lambda x: x[:1].expand(64, 16), "differ"),
        (lambda x: x[:0], "not empty"),
        (lambda x: x.index_fill(0, torch.tensor([0]), torch.nan), "norm"),
    ],
)
def test_features_that_nothing_can_be_learnt_from_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        train(change(planted(64)[0]), ABOUT, specs(), SHORT, log=quiet)


def test_a_loss_that_is_not_finite_names_the_autoencoder_and_the_step():
    config = SHORT.model_copy(update={"learning_rate": 1e30, "unit_atoms": False})
    with pytest.raises(ValueError, match=r"topk-2-x4-s1 .* step \d+"):
        train(planted(256)[0], ABOUT, specs()[:1], config, log=quiet)


@pytest.mark.parametrize("twice", [[], specs()[:1] * 2])
def test_sweeps_of_nothing_or_of_the_same_thing_twice_are_refused(twice):
    with pytest.raises(ValueError, match="differ"):
        train(planted(64)[0], ABOUT, twice, SHORT, log=quiet)


@pytest.mark.parametrize("wrong", [{"steps": 5}, {"epochs": None}, {"warmup": 0.5, "decay": 0.6}])
def test_settings_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ValueError, match=r"give epochs or steps|at most 1"):
        SAETrainConfig(**wrong)


@pytest.mark.parametrize("prefixes", [(), (0.5,), (0.5, 0.5, 1.0), (0.0, 1.0)])
def test_prefixes_that_do_not_rise_to_one_are_refused(prefixes):
    with pytest.raises(ValueError, match="rise"):
        Matryoshka(k=2, prefixes=prefixes)


def test_rules_and_settings_are_read_without_torch():
    program = "import sys, amalgam.tasks.sae; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_values_survive_json(rule):
    spec = SAESpec(sparsity=rule)
    assert SAESpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.info(ABOUT) == type(spec.info(ABOUT)).model_validate_json(spec.info(ABOUT).model_dump_json())
