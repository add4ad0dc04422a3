"""Names: planted words come back, meaningless directions stay unnamed, and truth is counted as defined."""

import pytest
import torch

from amalgam.tasks.explain.active import Active
from amalgam.tasks.explain.latents.table import Groups, Seen, latent_table
from amalgam.tasks.explain.names import (
    Evidence,
    NameAccuracy,
    Names,
    calibrated,
    embed,
    name_accuracy,
    name_latents,
    shown,
)
from amalgam.tasks.explain.vocabulary import Concept, Truth, concepts_in, concepts_of
from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.codes import largest
from tests.tasks.clip.worlds import tiny_clip

WORDS = ("zero", "one", "two", "three", "bold", "thin", "red", "blue")
WIDTH = 32


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def name(directions, texts, alive=None):
    alive = torch.ones(len(directions), dtype=torch.bool) if alive is None else alive
    return name_latents(directions, texts, WORDS, alive, torch.Generator().manual_seed(0))


def test_planted_atoms_get_their_words_across_the_modality_gap():
    texts, gap = unit_norm(draw(len(WORDS), WIDTH)), 5 * draw(WIDTH, seed=1)
    order = torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(2))
    places, image_mean = texts[order] + gap, texts.mean(0) + gap
    names = name(places - image_mean, texts)
    assert [names.name(latent) for latent in range(len(WORDS))] == [WORDS[i] for i in order]
    torch.testing.assert_close(names.scores[:, 0], torch.ones(len(WORDS)).double())


def test_permuted_latents_permute_names():
    texts, places = unit_norm(draw(len(WORDS), WIDTH)), draw(50, WIDTH, seed=3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    one, other = (name(each, texts) for each in (places, places[order]))
    assert torch.equal(other.best, one.best[order])


def test_few_meaningless_directions_get_a_name():
    texts, spread = unit_norm(draw(len(WORDS), WIDTH)), torch.linspace(0.2, 3, WIDTH)
    names = name(draw(3000, WIDTH, seed=3) * spread, texts)
    assert names.named.double().mean().item() == pytest.approx(0.05, abs=0.02)  # two standard errors of both samples


def test_dead_latents_are_unnamed():
    texts = unit_norm(draw(len(WORDS), WIDTH))
    directions = texts - texts.mean(0)
    names = name(directions, texts, alive=torch.arange(len(WORDS)) != 3)
    assert names.name(3) == "unnamed" and names.named.sum() == len(WORDS) - 1
    assert not name(directions, texts, alive=torch.zeros(len(WORDS), dtype=torch.bool)).named.any()


def table_of(fired, labels, domains):
    codes, groups = largest(fired.double(), fired.shape[1]), Groups(int(labels.max()) + 1, int(domains.max()) + 1)
    seen = Seen(labels, domains, labels, labels)
    return latent_table(Active.of(codes, codes), "after", seen, groups, 2, torch.zeros(fired.shape[1]))


def test_a_latent_shows_the_words_of_most_images_that_fire_it():
    labels, domains = torch.arange(40) % 10, torch.arange(40) // 10
    truth = Truth(
        of_class=tuple((f"digit{c}",) for c in range(10)), of_domain=(("plain",), ("bold",), ("red",), ("wet",))
    )
    fired = torch.stack(
        [
            labels == 3,
            domains == 1,
            (labels == 3) & (domains == 1),  # shows both
            torch.ones(40, dtype=torch.bool),  # shows nothing in particular
            labels < 5,  # no class is most of its images
            torch.zeros(40, dtype=torch.bool),
        ],
        1,
    )
    words = ("digit3", "digit4", "bold", "unheard")
    found = shown(table_of(fired, labels, domains), truth, words)
    assert [[w for w, yes in zip(words, row, strict=True) if yes] for row in found.tolist()] == [
        ["digit3"],
        ["bold"],
        ["digit3", "bold"],
        [],
        [],
        [],
    ]


def test_a_word_of_two_classes_is_counted_in_both():
    labels, domains = torch.arange(30) % 6, torch.zeros(30, dtype=torch.long)
    pairs = (("one", "two"), ("two", "one"), ("two",), ("one",), ("six",), ("nine",))
    fired = torch.stack([(labels == 0) | (labels == 1) | (labels == 2), labels == 4], 1)
    found = shown(table_of(fired, labels, domains), Truth(of_class=pairs), ("one", "two", "six"))
    assert found.tolist() == [[False, True, False], [False, False, True]]  # "one" is 2/3 of them, yet 1/2 of all


def test_names_are_judged_where_there_is_a_name_and_a_truth():
    best = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 1, 2], [1, 2, 0]])
    scores = torch.tensor([0.9, 0.9, 0.9, 0.1, 0.9])[:, None].expand(5, 3)
    names = Names(WORDS[:3], best, scores, 0.5, torch.tensor([True, True, True, True, False]))
    truth = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]).bool()
    found = name_accuracy(names, truth)
    assert found == NameAccuracy(
        4, clear=3, named=3, judged=2, right=1, right_in_three=2, right_if_forced=2, chance=0.5
    )
    assert found.accuracy == 0.5


def scored(num_latents, wrong_below, seed=0):
    """Names with scores in [0, 1] whose words are wrong below one of them, and what latents show."""
    scores = torch.rand(num_latents, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    best = torch.arange(num_latents)[:, None] % 4
    truth = torch.nn.functional.one_hot((best + (scores < wrong_below).long())[:, 0] % 4, 4).bool()
    return Names(WORDS[:4], best, scores, 2.0, torch.ones(num_latents).bool()), truth


def test_names_are_given_down_to_the_stated_error_rate():
    names, truth = scored(400, wrong_below=0.5)
    strict, loose = (calibrated(names, truth, WORDS, rate) for rate in (0.05, 0.4))
    for found, rate in ((strict, 0.05), (loose, 0.4)):
        wrong = ~truth.gather(1, found.best)[found.named]
        assert found.evidence == Evidence(rate, int(found.named.sum()), int(wrong.sum()))
        assert wrong.double().mean() <= rate and found.named.sum() > 100
    assert strict.threshold < 0.6 and loose.threshold < 0.4


def test_too_little_evidence_leaves_names_as_they_are():
    names, truth = scored(20, wrong_below=0.0)
    assert calibrated(names, truth, WORDS, 0.05) is names  # 20 right ones do not exclude 1 wrong in 20
    names, truth = scored(400, wrong_below=1.0)
    assert calibrated(names, truth, WORDS, 0.05) is names
    assert calibrated(*scored(400, 0.0), (), 0.05).evidence is None


def test_calibrated_names_do_not_depend_on_the_order_of_latents():
    names, truth = scored(300, wrong_below=0.3)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    moved = Names(names.words, names.best[order], names.scores[order], names.threshold, names.alive)
    one, other = calibrated(names, truth, WORDS, 0.1), calibrated(moved, truth[order], WORDS, 0.1)
    assert one.evidence == other.evidence and torch.equal(one.named[order], other.named)


def test_classes_and_domains_are_truth_where_they_are_words():
    truth = Truth.of_names(("cat", "dog"), ("sketch", "cat"), ("cat", "sketch", "red"))
    assert truth == Truth(of_class=(("cat",), ()), of_domain=(("sketch",), ()))
    assert truth.known == {"cat", "sketch"}


def test_concepts_are_means_of_their_prompts():
    clip = tiny_clip()
    concepts = (
        *concepts_of(("two", "three"), ("a photo of {}", "the {}")),
        *concepts_in(("zero one", "bold one"), ("one",)),
    )
    assert concepts[2] == Concept(word="one", prompts=("zero one", "bold one"))
    texts = embed(clip, concepts)
    mean = unit_norm(clip.encode_text(["a photo of three", "the three"])).mean(0)
    torch.testing.assert_close(texts[1].float(), unit_norm(mean))


def test_what_cannot_be_named_is_refused():
    with pytest.raises(ValueError, match="got 1"):
        name_latents(draw(3, 4), draw(1, 4), ("one",), torch.ones(3).bool(), torch.Generator())
    with pytest.raises(ValueError, match="'five'"):
        concepts_in(("zero one",), ("five",))
    with pytest.raises(ValueError, match="'red'"):
        Truth(of_class=(("red",),), of_domain=(("red",),))
    with pytest.raises(ValueError, match=r"1 class .* 3"):
        Truth(of_class=(("red",),)).require(3, 1)
