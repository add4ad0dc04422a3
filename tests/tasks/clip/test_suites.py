"""Suites are read off the folders they come in: which column is which class, and what is missing."""

import pytest
import torch

from amalgam.tasks.clip.class_names import EUROSAT_NAMES, FMOW_NAMES
from amalgam.tasks.clip.testing.imagenet import IMAGENET_SETS, imagenet
from amalgam.tasks.clip.testing.suite import PictureSettings
from amalgam.tasks.clip.testing.suites import OTHER_SETS, SUITES, domain_folders, image_folder, num_labelled, others
from amalgam.tasks.clip.zero_shot import Projection
from amalgam.tasks.data.opening import open_labelled, open_source
from amalgam.tasks.data.sources import LabelledConfig
from amalgam.tasks.models.clip_spec import Preprocessing
from tests.tasks.clip.stand_ins import OBJECTS, SYNSETS, picture, write_imagenet, write_objectnet

PICTURES = PictureSettings.of(Preprocessing(size=(8, 8)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """ImageNet and its shifts with all their folders and a picture in some."""
    root = tmp_path_factory.mktemp("data")
    write_imagenet(root, {"imagenet/val": 1, "imagenet-r": 1, "imagenetv2-matched-frequency-format-val": 1})
    write_objectnet(root / "objectnet-1.0")
    return root


def test_imagenet_is_tested_on_itself_and_five_shifts(root):
    suite = imagenet(root, PICTURES)
    assert [(one.name, one.role) for one in suite.test_sets] == [
        (name, "id" if name == "imagenet" else "natural") for name in IMAGENET_SETS
    ]
    assert len(suite.class_names) == 1000 and suite.templates == "openai" and suite.labelled.split == "train"


def test_folders_say_which_columns_of_the_head_are_theirs(root):
    sets = {one.name: one for one in imagenet(root, PICTURES).test_sets}
    assert sets["imagenet-r"].columns == ((3,), (12,), (999,)) and sets["imagenet-a"].columns == ((12,), (999,))
    assert not sets["imagenet"].columns and not sets["imagenet-sketch"].columns
    images = open_source(sets["imagenet-r"].source, root)
    logits = torch.zeros(3, 1000)
    logits[range(3), [int(SYNSETS.index(images.class_names[label])) for label in images.labels]] = 1
    assert torch.equal(Projection(sets["imagenet-r"].columns, 1000)(logits).argmax(1), images.labels)


def test_numbered_folders_are_labels_of_imagenet(root):
    v2 = next(one for one in imagenet(root, PICTURES, ["imagenet-v2"]).test_sets)
    images = open_source(v2.source, root)
    assert images.labels.tolist() == [3, 12, 999] and len(images.class_names) == 1000


def test_objects_stand_for_all_their_classes_and_lose_their_frame(root):
    (objects,) = imagenet(root, PICTURES, ["objectnet"]).test_sets
    assert objects.columns == (OBJECTS["alarm_clock"], OBJECTS["backpack"])
    assert objects.source.data.border == 2
    images = open_source(objects.source, root)
    assert images.class_names == ("alarm_clock", "backpack") and images.labels.tolist() == [0, 1]


def test_pictures_are_prepared_as_the_backbone_was(root):
    data = imagenet(root, PictureSettings.of(Preprocessing(size=(64, 64)), skip_damaged=True)).test_sets[0].source.data
    assert (data.image_size, data.interpolation, data.skip_damaged) == (64, "bicubic", True)
    assert (data.mean, data.std) == (Preprocessing(size=(64, 64)).mean, Preprocessing(size=(64, 64)).std)
    with pytest.raises(ValueError, match="bicubic"):
        PictureSettings.of(Preprocessing(size=(8, 16)))


def test_what_is_missing_is_one_sentence(root, tmp_path):
    with pytest.raises(ValueError, match=r"imagenet/train .*ILSVRC 2012"):
        imagenet(tmp_path, PICTURES)
    with pytest.raises(ValueError, match="--data-root"):
        imagenet(None, PICTURES)
    for synset in SYNSETS[:5]:
        (tmp_path / "imagenet" / "train" / synset).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"1000 .*got 5"):
        imagenet(tmp_path, PICTURES)
    with pytest.raises(ValueError, match=r"'imagenet-q'.* 'imagenet-"):
        imagenet(root, PICTURES, ["imagenet-q"])
    (root / "imagenet-a" / "n1").mkdir()
    try:
        with pytest.raises(ValueError, match="imagenet-a/n1"):
            imagenet(root, PICTURES, ["imagenet-a"])
    finally:
        (root / "imagenet-a" / "n1").rmdir()
    for name in ("iwildcam", "fmow"):
        with pytest.raises(ValueError, match=r"WILDS .*wilds\.stanford\.edu"):
            SUITES[name](tmp_path, PICTURES, ())
    (tmp_path / "objectnet-1.0").mkdir()
    for synset in SYNSETS[5:]:
        (tmp_path / "imagenet" / "train" / synset).mkdir()
    with pytest.raises(ValueError, match=r"folder_to_objectnet_label\.json"):
        imagenet(tmp_path, PICTURES, ["objectnet"])


def test_the_wilds_are_tested_by_their_official_parts_and_metrics(tmp_path):
    (tmp_path / "fmow_v1.1").mkdir()
    (tmp_path / "iwildcam_v2.0").mkdir()
    (tmp_path / "iwildcam_v2.0" / "categories.csv").write_text("y,name\n1,panthera_leo\n0,empty\n")
    fmow, iwildcam = (SUITES[name](tmp_path, PICTURES, ()) for name in ("fmow", "iwildcam"))
    assert [(one.role, one.metric, one.source.data.part) for one in (*fmow.test_sets, *iwildcam.test_sets)] == [
        ("id", "accuracy", "id_test"),
        ("natural", "worst_group", "test"),
        ("id", "macro_f1", "id_test"),
        ("natural", "macro_f1", "test"),
    ]
    assert {one.labelled.validation_part for one in (fmow, iwildcam)} == {"id_val"}
    assert (fmow.choose_by, iwildcam.choose_by) == ("accuracy", "macro_f1")
    assert list(FMOW_NAMES) == sorted(set(FMOW_NAMES)) and len(FMOW_NAMES) == 62 == len(fmow.class_names)
    assert fmow.class_names[1] == "airport hangar" and iwildcam.class_names == ("empty", "panthera_leo")
    (tmp_path / "iwildcam_v2.0" / "class_names.txt").write_text("empty\nlion\n")
    assert SUITES["iwildcam"](tmp_path, PICTURES, ()).class_names == ("empty", "lion")


def test_other_classes_have_heads_of_their_own():
    suite = others(None, PICTURES)
    assert [one.name for one in suite.test_sets] == list(OTHER_SETS) and suite.labelled is None
    assert all(one.role == "forgetting" and one.templates == "simple" for one in suite.test_sets)
    assert len(EUROSAT_NAMES) == 10 and others(None, PICTURES, ["eurosat"]).test_sets[0].class_names == EUROSAT_NAMES


def test_user_supplied_folders_are_suites(tmp_path):
    for place in (
        "pets/train/big_cat",
        "pets/train/dog",
        "pets/test/big_cat",
        "pets/test/dog",
        "art/paint/cat",
        "art/photo/cat",
        "art/photo/dog",
        "art/a_sketch/dog",
    ):
        picture(tmp_path / place / "1.png")
    pets = image_folder("pets", tmp_path, PICTURES)
    assert pets.class_names == ("big cat", "dog") and [one.role for one in pets.test_sets] == ["id"]
    assert len(open_source(pets.test_sets[0].source, tmp_path)) == 2
    art = domain_folders("art", "photo", tmp_path, PICTURES)
    assert art.class_names == ("cat", "dog") and art.labelled.data.part == "photo"
    assert [(one.name, one.role, one.source.data.part) for one in art.test_sets] == [
        ("photo", "id", "photo"),
        ("a-sketch", "natural", "a_sketch"),
        ("paint", "natural", "paint"),
    ]
    with pytest.raises(ValueError, match=r"'fotos'.*'photo'"):
        domain_folders("art", "fotos", tmp_path, PICTURES)


@pytest.mark.parametrize("grouped", [False, True])
def test_pictures_of_a_domain_are_trained_on_or_tested_and_no_subject_is_both(grouped, tmp_path):
    rows = ["filename,subject"]
    for name in ("cat", "dog"):
        for number in range(20):
            picture(tmp_path / f"art/photo/{name}/{number}.png", (number, 0, 0))
            rows.append(f"photo/{name}/{number}.png,{name}{number // 4}")
    picture(tmp_path / "art/paint/cat/1.png")
    (tmp_path / "art/metadata.csv").write_text("\n".join(rows))
    suite = domain_folders("art", "photo", tmp_path, PICTURES)
    suite = suite.grouped_by("subject") if grouped else suite
    trained, tested = (open_source(source, tmp_path) for source in (suite.labelled, suite.test_sets[0].source))
    assert (len(trained), len(tested)) == (num_labelled(suite.labelled, tmp_path), 8) == (32, 8)
    shades = [
        {(pixels[0, 0, 0].item(), label.item()) for pixels, label in zip(one.pixels, one.labels, strict=True)}
        for one in (trained, tested)
    ]
    assert not shades[0] & shades[1] and len(shades[0] | shades[1]) == 40
    assert trained.fingerprint != tested.fingerprint
    if grouped:
        subjects = [set(one.sources.flatten().tolist()) for one in (trained, tested)]
        assert not subjects[0] & subjects[1]


def test_choices_of_iwildcam_see_its_official_part_and_training_the_rest(tmp_path):
    folder, rows = tmp_path / "iwildcam_v2.0", ["split,filename,y"]
    for number in range(12):
        part = ("train", "id_val", "test")[number % 3]
        picture(folder / f"train/{number}.png", (number, 0, 0))
        rows.append(f"{part},{number}.png,{number % 2}")
    (folder / "categories.csv").write_text("y,name\n1,panthera_leo\n0,empty\n")
    (folder / "metadata.csv").write_text("\n".join(rows))
    labelled = SUITES["iwildcam"](tmp_path, PICTURES, ()).labelled
    images, kept, held_out = open_labelled(LabelledConfig(source=labelled, seed=1), tmp_path)
    shades = images.pixels[:, 0, 4, 4]
    assert [shades[places].tolist() for places in (kept, held_out)] == [[0, 3, 6, 9], [1, 4, 7, 10]]
    assert images.labels.tolist() == [0, 1, 0, 1, 1, 0, 1, 0]
    assert images.batch(torch.tensor([5, 0, 7]))[:, 0, 4, 4].tolist() == [4, 0, 10]
