"""ImageNet and its five natural shifts. Importable without torch.

No list of ImageNet's synsets is kept here. Folders of ImageNet and of its variants are called by their synset, and the
sorted names of the training folders are the order of the 1000 labels, so that ImageNet-A and -R say by their folders
which columns of the head are theirs. ObjectNet brings its own tables.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from amalgam.tasks.clip.testing.suite import DataFolder, PictureSettings, Suite, chosen
from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.data.layouts import class_folders
from amalgam.tasks.models.clip_files.prompts import imagenet_classes

OBJECTNET_BORDER = 2  # pixels of red around every picture of ObjectNet
IMAGENET_TRAIN = DataFolder("imagenet/train", "the training pictures of ILSVRC 2012 (image-net.org) by synset")
IMAGENET_SETS = {
    "imagenet": DataFolder("imagenet/val", "the validation pictures of ILSVRC 2012, sorted into a folder per synset"),
    "imagenet-v2": DataFolder("imagenetv2-matched-frequency-format-val", "ImageNet-V2 (huggingface.co, vaishaal)"),
    "imagenet-r": DataFolder("imagenet-r", "imagenet-r.tar (github.com/hendrycks/imagenet-r)"),
    "imagenet-a": DataFolder("imagenet-a", "imagenet-a.tar (github.com/hendrycks/natural-adv-examples)"),
    "imagenet-sketch": DataFolder("sketch", "ImageNet-Sketch (github.com/HaohanWang/ImageNet-Sketch)"),
    "objectnet": DataFolder("objectnet-1.0", "objectnet-1.0.zip with its folder of mappings (objectnet.dev)"),
}
"""ImageNet and its five natural shifts, the unweighted mean of which is called average OOD."""


def imagenet(root: Path | None, pictures: PictureSettings, only: Sequence[str] = ()) -> Suite:
    """ImageNet, tested on its validation pictures and, as natural shifts, on V2, R, A, Sketch and ObjectNet."""
    synsets = class_folders(IMAGENET_TRAIN.under(root))
    names = imagenet_classes()
    if len(synsets) != len(names):
        raise ValueError(
            f"{IMAGENET_TRAIN.under(root)} must contain the {len(names)} folders of ImageNet, got {len(synsets)}"
        )
    return Suite(
        labelled=pictures.stored(f"classes:{IMAGENET_TRAIN.folder}", "train"),
        class_names=names,
        templates="openai",
        test_sets=tuple(_test_set(name, root, pictures, synsets) for name in chosen(IMAGENET_SETS, only)),
    )


def _test_set(name: str, root: Path | None, pictures: PictureSettings, synsets: Sequence[str]) -> TestSet:
    place = IMAGENET_SETS[name]
    folder, source = place.under(root, ", or leave its test set out"), f"classes:{place.folder}"
    if name == "objectnet":
        columns = objectnet_columns(folder / "mappings")
        stored = pictures.stored(f"{source}/images", classes=tuple(columns), border=OBJECTNET_BORDER)
        return TestSet(name=name, role="natural", source=stored, columns=tuple(columns.values()))
    found = class_folders(folder)
    role = "id" if name == "imagenet" else "natural"
    if len(found) == len(synsets):
        return TestSet(name=name, role=role, source=pictures.stored(source))
    numbers = {synset: number for number, synset in enumerate(synsets)}
    if unknown := [each for each in found if each not in numbers]:
        raise ValueError(f"{folder / unknown[0]} is no class of ImageNet: {place.fetch} has a folder per synset")
    columns_of_head = tuple((numbers[each],) for each in found)
    return TestSet(name=name, role=role, source=pictures.stored(source), columns=columns_of_head)


def objectnet_columns(mappings: Path) -> dict[str, tuple[int, ...]]:
    """For each of the 113 folders of ObjectNet that show classes of ImageNet, in order of name, the latter's labels.

    Raises ValueError if a table of ObjectNet is missing.
    """
    tables = ("folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json", "pytorch_to_imagenet_2012_id.json")
    label_of_folder, imagenet_names, ids = (json.loads(_text(mappings / table)) for table in tables)
    label_of_id = {int(number): int(label) for label, number in ids.items()}
    lines = _text(mappings / "imagenet_to_label_2012_v2").splitlines()
    label_of_name = {line.strip(): label_of_id[number] for number, line in enumerate(lines) if number in label_of_id}
    return {
        folder: tuple(label_of_name[name] for name in imagenet_names[label].split("; "))
        for folder, label in sorted(label_of_folder.items())
        if label in imagenet_names
    }


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is missing: it comes with ObjectNet, in its folder of mappings")
    return path.read_text(encoding="utf-8")
