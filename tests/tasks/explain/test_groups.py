"""Groups of latents: planted ones are found, and chance is not."""

import pytest
import torch
from sklearn.metrics import mutual_info_score

from amalgam.tasks.explain.groups import association, directions, named_latents, of_domains, of_one_set
from amalgam.tasks.explain.names import name_latents

EXAMPLES, LATENTS = 900, 200


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(EXAMPLES, LATENTS, generator=generator) < 0.2
    return active, torch.randint(3, (EXAMPLES,), generator=generator), generator


def test_information_is_that_of_scikit_learn():
    active, domains, _ = drawn()
    found = association(active, domains).information
    expected = [mutual_info_score(domains.numpy(), active[:, latent].numpy()) for latent in range(LATENTS)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_planted_latents_are_found_strongest_first():
    active, domains, generator = drawn()
    active[:, 7] = domains == 1
    active[:, 9] = (domains == 2) & (torch.rand(EXAMPLES, generator=generator) < 0.8)
    assert association(active, domains).latents[:2] == (7, 9)


def test_false_discoveries_stay_below_their_rate():
    # Without any association a discovery is a false one: a share of at most `rate` of the repetitions has any.
    with_any = sum(bool(association(*drawn(seed)[:2], rate=0.1).latents) for seed in range(100))
    assert with_any <= 20  # 10 expected; more than 20 has a chance below 0.001


@pytest.mark.parametrize("names", ["one domain", "never active"])
def test_what_cannot_say_anything_says_nothing(names):
    active, domains, _ = drawn()
    found = association(active & (names != "never active"), domains * (names != "one domain"))
    assert found.latents == () and found.information.abs().max() < 1e-12


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ValueError, match=f"rate.*{rate}"):
        association(*drawn()[:2], rate=rate)


def test_latents_of_domains_leave_the_tasks_own_free():
    active, domains, generator = drawn()
    labels = torch.randint(4, (EXAMPLES,), generator=generator)
    active[:, 3] = domains == 1
    active[:, 4] = labels == 2
    # Of the label mostly, and of the domain a little: the task's own.
    active[:, 5] = (labels == 1) & (domains != 0)
    found = of_domains(active, domains, labels)
    assert 3 in found and not {4, 5} & set(found)


def test_latents_that_go_with_the_label_in_one_set_alone_are_found():
    active, labels, generator = drawn()
    others, other_labels, _ = drawn(1)
    active[:, 3], others[:, 3] = labels == 1, torch.rand(EXAMPLES, generator=generator) < 0.3
    active[:, 4], others[:, 4] = labels == 2, other_labels == 2
    found = of_one_set(active, labels, others, other_labels)
    assert 3 in found and 4 not in found


def test_names_do_not_depend_on_the_order_of_latents():
    words, generator = ["bold", *(f"word{n}" for n in range(29))], torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(30, 64, dtype=torch.float64, generator=generator), dim=1)
    places = texts[torch.arange(60) % 30] - texts.mean(0)
    places += 0.05 * torch.randn(places.shape, dtype=torch.float64, generator=generator)
    alive, order = torch.ones(60, dtype=torch.bool), torch.randperm(60, generator=generator)
    first, again = (
        named_latents(name_latents(of, texts, words, alive, torch.Generator().manual_seed(1)), ["bold"])
        for of in (places, places[order])
    )
    assert sorted(order[list(again)].tolist()) == list(first) == [0, 30]
    with pytest.raises(ValueError, match="did you mean 'bold'"):
        named_latents(name_latents(places, texts, words, alive, torch.Generator()), ["bould"])


def test_the_direction_of_a_latent_is_the_mean_of_its_images_less_that_of_all():
    generator = torch.Generator().manual_seed(0)
    features, activations = torch.randn(50, 8, generator=generator), torch.rand(50, 5, generator=generator).relu()
    expected = (activations[:, 2, None] * features).sum(0) / activations[:, 2].sum() - features.mean(0)
    torch.testing.assert_close(directions(features, activations)[2].float(), expected)
