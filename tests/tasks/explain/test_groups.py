"""Groups of latents: planted ones are found, and chance is not."""

import pytest
import torch
from sklearn.metrics import mutual_info_score

from amalgam.tasks.explain.groups import association, shortcuts

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


def test_shortcuts_go_with_the_label_in_one_domain_alone():
    active, domains, generator = drawn()
    labels = torch.randint(2, (EXAMPLES,), generator=generator)
    active[:, 4] = labels == 1
    active[domains == 0, 5] = (labels == 1)[domains == 0]
    assert 5 in shortcuts(active, labels, domains) and 4 not in shortcuts(active, labels, domains)


@pytest.mark.parametrize("names", ["one domain", "never active"])
def test_what_cannot_say_anything_says_nothing(names):
    active, domains, _ = drawn()
    found = association(active & (names != "never active"), domains * (names != "one domain"))
    assert found.latents == () and found.information.abs().max() < 1e-12


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ValueError, match=f"rate.*{rate}"):
        association(*drawn()[:2], rate=rate)
