"""Tiny sets in the layouts of those that the literature tests CLIP on: every folder and table, a few noisy pictures."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from amalgam.tasks.clip.class_names import FMOW_NAMES

SYNSETS = [f"n{100 + 7 * i:08d}" for i in range(1000)]
SHOWN = (3, 12, 999)  # the labels of ImageNet that have pictures
OBJECTS: Mapping[str, tuple[int, ...]] = {"air_freshener": (), "backpack": (414,), "alarm_clock": (409, 530)}
IMAGENET_FOLDERS = {
    "imagenet/train": SYNSETS,
    "imagenet/val": SYNSETS,
    "imagenetv2-matched-frequency-format-val": [str(number) for number in range(1000)],
    "sketch": SYNSETS,
    "imagenet-r": [SYNSETS[i] for i in SHOWN],
    "imagenet-a": [SYNSETS[i] for i in SHOWN[1:]],
}
OTHER_CLASSES = ("dtd", "eurosat", "pets", "cars", "aircraft", "caltech101")
"""Those of other classes whose files torchvision does not compare with a published digest."""


def picture(path: Path, colour: Sequence[int] = (9, 200, 9), size: tuple[int, int] = (14, 12)) -> None:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(colour)).save(path)


def noisy(path: Path, label: int, number: int) -> None:
    """A picture of noise in the colour of its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng((label, number))
    colour = np.random.default_rng(label).integers(0, 180, 3)
    Image.fromarray((colour + draw.integers(0, 70, (18, 20, 3))).astype(np.uint8)).save(path)


def table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A table with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_imagenet(root: Path, per_class: Mapping[str, int]) -> None:
    """ImageNet and four of its shifts: all folders, and in some of them as many pictures of three classes."""
    for folder, names in IMAGENET_FOLDERS.items():
        for name in names:
            (root / folder / name).mkdir(parents=True)
        is_numbered = names[0] == "0"
        shown = [i for i in SHOWN if is_numbered or SYNSETS[i] in names]
        for label in shown:
            for number in range(per_class.get(folder, 0)):
                noisy(root / folder / (str(label) if is_numbered else SYNSETS[label]) / f"{number}.png", label, number)


def write_objectnet(folder: Path, pictures: int = 1) -> None:
    """ObjectNet with its tables in the very form it ships them: ids of 2012 are not the labels of ImageNet."""
    for name, labels in OBJECTS.items():
        for number in range(pictures):
            noisy(folder / "images" / name / f"{number}.png", labels[0] if labels else 0, number)
    id_of_label = {label: (label * 7 + 5) % 1000 for label in range(1000)}
    lines = ["?"] * 1000
    for label, number in id_of_label.items():
        lines[number] = f"thing {label}, another word"
    tables = {
        "folder_to_objectnet_label.json": {name: name.replace("_", " ").title() for name in OBJECTS},
        "objectnet_to_imagenet_1k.json": {
            name.replace("_", " ").title(): "; ".join(f"thing {label}, another word" for label in labels)
            for name, labels in OBJECTS.items()
            if labels
        },
        "pytorch_to_imagenet_2012_id.json": {str(label): number for label, number in id_of_label.items()},
    }
    (folder / "mappings").mkdir()
    for name, content in tables.items():
        (folder / "mappings" / name).write_text(json.dumps(content))
    (folder / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")


def write_iwildcam(folder: Path, animals: Sequence[str], per_part: Mapping[str, int]) -> None:
    """WILDS iWildCam: its tables, and pictures of animals in its official parts."""
    rows = [
        {"split": part, "filename": f"{part}-{i}.jpg", "y": i % len(animals)}
        for part, n in per_part.items()
        for i in range(n)
    ]
    for number, row in enumerate(rows):
        noisy(folder / "train" / str(row["filename"]), int(str(row["y"])), number)
    table(folder / "metadata.csv", rows)
    table(folder / "categories.csv", [{"y": label, "name": name} for label, name in enumerate(animals)])


def write_fmow(folder: Path, years: Mapping[str, int], per_part: int) -> None:
    """WILDS FMoW: every category is trained on once; pictures of `years` by split, countries in turn."""
    countries = {"FRA": "Europe", "JPN": "Asia", "ATA": "", "NZL": "Oceania"}
    categories = [("train", 2010, name) for name in FMOW_NAMES]
    categories += [(split, year, FMOW_NAMES[i % 5]) for split, year in years.items() for i in range(per_part)]
    rows = [
        {
            "split": split.partition(" ")[0],
            "category": category,
            "country_code": list(countries)[i % 4],
            "timestamp": f"{year}-05-01T00:00:00Z",
        }
        for i, (split, year, category) in enumerate(categories)
    ]
    for number, row in enumerate(rows):
        noisy(folder / "images" / f"rgb_img_{number}.png", FMOW_NAMES.index(str(row["category"])), number)
    table(folder / "rgb_metadata.csv", rows)
    table(folder / "country_code_mapping.csv", [{"alpha-3": c, "region": r} for c, r in countries.items()])


def write_other_classes(root: Path, per_class: int = 4) -> None:
    """DTD, EuroSAT, Pets, Cars, Aircraft and Caltech101 as torchvision lays them out, two classes each."""
    numbers = range(1, per_class + 1)
    for folder, names in (
        ("dtd/dtd/images", ("banded", "dotted")),
        ("eurosat/2750", [f"Class{i}" for i in range(10)]),
        ("caltech101/101_ObjectCategories", ("anchor", "ant")),
    ):
        for label, name in enumerate(names):
            for number in numbers:
                noisy(root / folder / name / f"image_{number:04d}.jpg", label, number)
    picture(root / "caltech101/101_ObjectCategories/BACKGROUND_Google/1.jpg")  # is left out
    (root / "caltech101/Annotations").mkdir()
    _write_lines(
        root / "dtd/dtd/labels/test1.txt", [f"{n}/image_{i:04d}.jpg" for n in ("banded", "dotted") for i in numbers]
    )
    _write_pets(root / "oxford-iiit-pet", numbers)
    _write_aircraft(root / "fgvc-aircraft-2013b/data", numbers)
    _write_cars(root / "stanford_cars", numbers)


def _write_pets(folder: Path, numbers: Sequence[int]) -> None:
    (folder / "annotations").mkdir(parents=True)
    for label, name in enumerate(("Abyssinian", "beagle")):
        for number in numbers:
            noisy(folder / "images" / f"{name}_{number}.jpg", label, number)
    lines = [f"{name}_{i} {label} {label} 1" for label, name in ((1, "Abyssinian"), (2, "beagle")) for i in numbers]
    _write_lines(folder / "annotations" / "test.txt", lines)


def _write_aircraft(folder: Path, numbers: Sequence[int]) -> None:
    names = ("707-320", "A300B4")
    for label in range(len(names)):
        for number in numbers:
            noisy(folder / "images" / f"{label}{number}.jpg", label, number)
    _write_lines(folder / "variants.txt", names)
    lines = [f"{label}{i} {name}" for label, name in enumerate(names) for i in numbers]
    _write_lines(folder / "images_variant_test.txt", lines)


def _write_cars(folder: Path, numbers: Sequence[int]) -> None:
    (folder / "devkit").mkdir(parents=True)
    rows = [(f"{label}{i}.jpg", label) for label in (1, 2) for i in numbers]
    for name, label in rows:
        noisy(folder / "cars_test" / name, label, int(name[1]))
    table_of_cars = np.array(rows, dtype=[("fname", object), ("class", int)])
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": table_of_cars})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi S4", "BMW M3"], dtype=object)})


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
