"""A world says of its pictures what they show, but for a share that it fixed once and for all."""

import pytest
import torch

from amalgam.tasks.clip.toy.captioned import open_world
from amalgam.tasks.clip.toy.captions import PAIR_CAPTIONS, PHOTO_CAPTIONS
from amalgam.tasks.clip.toy.named import WORLDS
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.sources import PAIR_NAMES
from amalgam.tasks.models.clip_files.word_tokenizer import WordTokenizer

WORLD = WORLDS["digits"]
IDS = torch.arange(2000)


def test_pictures_and_captions_do_not_depend_on_batch_or_order():
    world = open_world(WORLD, None, 0)
    pictures, said = world.batch(IDS)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:50]
    again, told = world.batch(order)
    assert torch.equal(again, pictures[order]) and told == [said[i] for i in order.tolist()]
    assert world.batch(IDS[:5])[1] != open_world(WORLD, None, 1).batch(IDS[:5])[1]


def test_the_given_share_of_captions_is_wrong_and_every_style_is_as_frequent():
    honest, noisy = (
        open_world(WORLD.model_copy(update={"wrong_captions": share}), None, 0).batch(IDS)[1] for share in (0.0, 0.3)
    )
    wrong = sum(one != two for one, two in zip(honest, noisy, strict=True)) / 2000
    assert abs(wrong - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5
    for word in PAIR_CAPTIONS.style_words.values():  # half of the sentences name the style
        share = sum(word in caption for caption in honest) / 2000
        assert abs(share - 1 / 18) < 4 * (1 / 18 / 2000) ** 0.5


def test_exact_captions_say_the_digits_of_pictures_that_are_drawn_alike():
    world = open_world(WORLD.model_copy(update={"wrong_captions": 0.0}), None, 3)
    pictures, said = world.batch(IDS[:200])
    plain = open_source(WORLD.source("pretraining", 200, seed=3))
    assert all(said[i].endswith(PAIR_NAMES[label]) for i, label in enumerate(plain.labels.tolist()))
    named = [i for i in range(200) if "plain" in said[i]]
    assert named and torch.equal(pictures[named], plain.pixels[named])


@pytest.mark.parametrize("captions", [PAIR_CAPTIONS, PHOTO_CAPTIONS])
def test_every_caption_and_prompt_is_made_of_the_vocabulary(captions):
    every = captions.all()
    tokens = WordTokenizer(captions.words, captions.longest + 2)(every)
    assert len(tokens.unique(dim=0)) == len(every) == len(set(every))
    said = {word for caption in every for word in caption.split()}
    assert said == set(captions.words) and captions.longest == max(len(caption.split()) for caption in every)
    name = captions.class_names[42]
    prompts = {
        t.replace("{}", name) for style in (None, *captions.style_words) for t in captions.class_templates(style)
    }
    prompts |= {
        t.replace("{}", word) for t in captions.style_templates([name]) for word in captions.style_words.values()
    }
    assert prompts <= set(every)


def test_parts_of_a_world_share_no_digit():
    sources = [WORLD.source(part, 10) for part in ("pretraining", "finetuning", "test")]
    assert len({(source.split, source.half) for source in sources}) == 3
