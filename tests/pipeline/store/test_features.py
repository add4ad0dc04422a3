"""Staged features are those of the frozen encoder, however they are shared out, and are read by their own kind only."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.clip.features import FeaturesConfig, stage_features
from amalgam.pipeline.store.clip_checkpoints import ClassifierInfo, key_of, load_classifier, save_classifier
from amalgam.pipeline.store.tables.features import FEATURES, SITE, anchors, read_features
from amalgam.pipeline.store.tables.rows import describe
from amalgam.pipeline.store.tables.rows_schema import RowsSchema
from amalgam.pipeline.store.tables.rows_writer import RowsWriter
from amalgam.tasks.clip.finetuning.finetune import anchor
from amalgam.tasks.clip.zero_shot import Classifier, zero_shot_head
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.loading import shuffled_batches
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.sources import MixedStyles, StyledPairs
from amalgam.tasks.data.views import View
from tests.tasks.clip.worlds import CLASSES, spec, tiny_clip

NUM_IMAGES = 96
PAIRS = StyledPairs(glyphs=DataSpec(name="digits"), num_images=NUM_IMAGES, size=16)
TEMPLATES = ("a photo of the digit {}",)


def classifier_folder(folder: Path, seed: int = 0) -> Path:
    clip = tiny_clip(seed)
    about = ClassifierInfo(clip=spec(seed=seed), class_names=CLASSES, templates=TEMPLATES, backbone=key_of(clip))
    folder.mkdir()
    save_classifier(Classifier(clip.image_tower, zero_shot_head(clip, CLASSES, TEMPLATES)), about, folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return classifier_folder(tmp_path_factory.mktemp("encoder") / "0")


@pytest.fixture
def stage(tmp_path, encoder):
    def staged(name: str = "features", encoder: Path = encoder, **settings) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        work = Workspace(folder, folder, None, "cpu", folder / "curves.jsonl")
        config = FeaturesConfig(**{"source": PAIRS, "batch_size": 16} | settings)
        metrics = stage_features(config, {"encoder": encoder}, work)
        assert metrics["rows"] == describe(folder / FEATURES).num_rows and metrics["width"] == 16
        return folder

    return staged


@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_parts_equal_one_part(stage, num_parts):
    settings = {"augment": "shift", "views": (0, 2)}
    whole = read_features([stage("whole", **settings)])
    parts = [stage(f"part {part}", part=part, num_parts=num_parts, **settings) for part in range(num_parts)]
    together = read_features(parts[::-1])
    for name in ("ids", "labels", "domain_codes", "views", "features"):
        assert torch.equal(getattr(together, name), getattr(whole, name)), name
    np.testing.assert_array_equal(whole.ids, np.tile(np.arange(NUM_IMAGES), 2))
    np.testing.assert_array_equal(whole.views, np.repeat([0, 2], NUM_IMAGES))


def test_the_size_of_batches_changes_rounding_alone(stage):
    small, large = (read_features([stage(f"{size}", batch_size=size)]).features for size in (7, NUM_IMAGES))
    torch.testing.assert_close(small, large)


def test_features_are_the_same_file_whenever_they_are_staged(stage):
    settings = {"augment": "shift", "views": (1,)}
    first, again, other = stage("a", **settings), stage("b", **settings), stage("c", augment="shift", views=(2,))
    digests = [describe(folder / FEATURES).digest for folder in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("augment", ["none", "shift", "resized_crop"])
def test_cached_anchors_are_the_live_ones(stage, encoder, augment):
    """Bit for bit: batches of 16 or more round alike, whichever images they hold. Smaller ones may differ by 1e-6."""
    views = (0,) if augment == "none" else (0, 1)
    cached = anchors([stage(augment=augment, views=views)], NUM_IMAGES)
    images = open_source(PAIRS)
    live = anchor(load_classifier(encoder), "cpu").encoder
    for number in views:
        generator = torch.Generator().manual_seed(number)
        for batch in shuffled_batches(
            images, range(NUM_IMAGES), 32, generator=generator, augment=View(augment, number)
        ):
            with torch.no_grad():
                assert torch.equal(live(batch.images), cached[number][batch.ids])


def test_one_view_is_in_memory_at_a_time(stage):
    parts = [stage(f"part {part}", augment="shift", views=(0, 1), part=part, num_parts=2) for part in range(2)]
    views, table = anchors(parts, NUM_IMAGES), read_features(parts)
    held = weakref.ref(views[0])
    assert views[0] is held()
    for number in (1, 0):
        assert torch.equal(views[number], table.features[table.views == number])
    assert held() is None and len(views) == 2
    with pytest.raises(IndexError, match="2 views, got 2"):
        views[2]


def test_float16_keeps_three_digits(stage):
    wide, narrow = (anchors([stage(dtype, dtype=dtype)], NUM_IMAGES)[0] for dtype in ("float32", "float16"))
    assert narrow.dtype == torch.float16
    torch.testing.assert_close(narrow.float(), wide, rtol=2**-11, atol=2**-24)


def test_an_image_that_was_not_encoded_is_nan(stage):
    part = stage(part=1, num_parts=2)
    found = anchors([part], NUM_IMAGES)
    assert found[0][:48].isnan().all() and found[0][48:].isfinite().all()
    with pytest.raises(ValueError, match=r"\[1\] of 2"):
        read_features([part])


def test_domains_are_those_of_the_images(stage):
    styles = ("plain", "negative", "bold")
    mixed = read_features([stage("mixed", source=MixedStyles(pictures=PAIRS, styles=styles))])
    assert [mixed.domains[code] for code in mixed.domain_codes[:4]] == ["plain", "negative", "bold", "plain"]
    other = PAIRS.model_copy(update={"num_images": 40, "style": "bold"})
    both = read_features([stage("plain"), stage("other", source=other, domain="elsewhere")])
    assert both.domains == ("plain", "elsewhere")
    np.testing.assert_array_equal(both.domain_codes, np.repeat([0, 1], [NUM_IMAGES, 40]))
    assert not both.info.normalised and both.info.width == 16


def test_features_of_another_encoder_are_refused(stage, tmp_path):
    other = stage("other", encoder=classifier_folder(tmp_path / "1", seed=1))
    key = key_of(tiny_clip())
    for read in (read_features, lambda places, backbone: anchors(places, NUM_IMAGES, backbone)):
        with pytest.raises(ValueError, match=f"encoder .*{key}"):
            read([other], backbone=key)
    with pytest.raises(ValueError, match="encoder"):
        read_features([stage(), other])


def test_features_of_another_width_or_dtype_are_refused(stage):
    with pytest.raises(ValueError, match=r"width 16, .*512"):
        read_features([stage()], width=512)
    with pytest.raises(ValueError, match=r"float16, .*float32"):
        read_features([stage("a"), stage("b", dtype="float16")])


def test_anchors_of_other_images_or_views_are_refused(stage):
    with pytest.raises(ValueError, match=r"image 95, .*50"):
        anchors([stage("a")], 50)[0]
    with pytest.raises(ValueError, match="other images or views"):
        anchors([stage("b")], NUM_IMAGES, data="another")
    with pytest.raises(ValueError, match=r"views \(1,\)"):
        anchors([stage("c", augment="shift", views=(1,))], NUM_IMAGES)


def test_what_is_no_file_of_features_is_refused(stage, tmp_path):
    path = stage() / FEATURES
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"features\.parquet .*damaged"):
        read_features([path])
    with RowsWriter(tmp_path / "rows.parquet", RowsSchema(sites={SITE: (2, 1)})) as writer:
        writer.write([0], [0], "test", {SITE: [0.0, 0.0]})
    with pytest.raises(ValueError, match="no file of features"):
        read_features([tmp_path / "rows.parquet"])
    with pytest.raises(ValueError, match="no features"):
        anchors([], NUM_IMAGES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": ()}, "different numbers from 0 on"),
        ({"augment": "shift", "views": (1, 1)}, "different numbers from 0 on"),
        ({"views": (0, 1)}, r"view 0, got \(0, 1\)"),
        ({"part": 2, "num_parts": 2}, "part must be below 2, got 2"),
    ],
)
def test_a_staging_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FeaturesConfig(source=PAIRS, **settings)


def test_more_parts_than_batches_are_refused(stage):
    with pytest.raises(ValueError, match=r"96 .* 6 .* 16, .* 7"):
        stage(num_parts=7)
