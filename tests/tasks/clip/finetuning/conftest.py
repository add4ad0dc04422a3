"""What most tests of fine-tuning start from: a tiny CLIP classifier and images of digits."""

import pytest

from amalgam.tasks.clip.zero_shot import Classifier, zero_shot_head
from tests.tasks.clip.worlds import CLASSES, four_digits, tiny_clip


@pytest.fixture(scope="module")
def digits():
    return four_digits()


@pytest.fixture
def classifier():
    clip = tiny_clip()
    return Classifier(clip.image_tower, zero_shot_head(clip, CLASSES, ["a photo of the digit {}"]))
