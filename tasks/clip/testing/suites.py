"""The test suites of the literature, as data: what is fine-tuned on, what is tested, in which words and by what metric.

Nothing is fetched: every suite says which folders it needs under the data root. Importable without torch.

No list of ImageNet's synsets is kept here. Folders of ImageNet and of its variants are called by their synset, and the
sorted names of the training folders are the order of the 1000 labels, so that ImageNet-A and -R say by their folders
which columns of the head are theirs. ObjectNet brings its own tables.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from amalgam.tasks.clip.class_names import EUROSAT_NAMES, FMOW_NAMES
from amalgam.tasks.clip.prompts import spoken
from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.layouts import class_folders, iwildcam_class_names
from amalgam.tasks.data.sources import Stored
from amalgam.tasks.models.clip_spec import Preprocessing
from amalgam.tasks.models.open_clip_words import imagenet_classes
from amalgam.tasks.near_names import unknown_name

OBJECTNET_BORDER = 2  # pixels of red around every picture of ObjectNet


class Suite(BaseModel):
    """What a classifier is fine-tuned on, and what it is tested on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labelled: Stored | None
    """What is fine-tuned on; a share of it is held out for every choice. None where the suite only tests."""
    class_names: tuple[str, ...]
    """What its classes are called in prompts."""
    templates: str
    """The set of prompts that makes its head."""
    test_sets: tuple[TestSet, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Pictures:
    """How all pictures of a suite are prepared: as the backbone's weights were trained."""

    settings: Mapping[str, Any]
    """Fields of `DataSpec`."""

    @classmethod
    def of(cls, preprocessing: Preprocessing, **settings: Any) -> "Pictures":
        """Those of a backbone. Raises ValueError for a backbone that reads no squares."""
        height, width = preprocessing.size
        if height != width or preprocessing.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"pictures are made bicubic or bilinear squares, this backbone reads {preprocessing!r}")
        scale = {"mean": preprocessing.mean, "std": preprocessing.std, "interpolation": preprocessing.interpolation}
        return cls({"image_size": height, **scale, **settings})

    def stored(self, name: str, split: str = "test", **settings: Any) -> Stored:
        """A split of a data set."""
        return Stored(data=DataSpec(name=name, **self.settings, **settings), split=split)


@dataclass(frozen=True)
class Place:
    """Where the pictures of a test set lie."""

    folder: str
    """Under the data root."""
    fetch: str
    """What to unpack there, and where it is from."""

    def under(self, root: Path | None, remedy: str = "") -> Path:
        """The folder. Raises ValueError, saying what is missing and what else may be done, if it is not there."""
        if root is None:
            raise ValueError(f"{self.fetch} must lie in {self.folder} under the data root: give --data-root")
        if not (root / self.folder).is_dir():
            raise ValueError(f"{root / self.folder} is missing: unpack {self.fetch} there{remedy}")
        return root / self.folder


IMAGENET_TRAIN = Place("imagenet/train", "the training pictures of ILSVRC 2012 (image-net.org), a folder per synset")
IMAGENET_SETS = {
    "imagenet": Place("imagenet/val", "the validation pictures of ILSVRC 2012, sorted into a folder per synset"),
    "imagenet-v2": Place("imagenetv2-matched-frequency-format-val", "ImageNet-V2 (huggingface.co/datasets/vaishaal)"),
    "imagenet-r": Place("imagenet-r", "imagenet-r.tar (github.com/hendrycks/imagenet-r)"),
    "imagenet-a": Place("imagenet-a", "imagenet-a.tar (github.com/hendrycks/natural-adv-examples)"),
    "imagenet-sketch": Place("sketch", "ImageNet-Sketch (github.com/HaohanWang/ImageNet-Sketch)"),
    "objectnet": Place("objectnet-1.0", "objectnet-1.0.zip with its folder of mappings (objectnet.dev)"),
}
"""ImageNet and its five natural shifts, the unweighted mean of which is called average OOD."""
IWILDCAM = Place("iwildcam_v2.0", "WILDS iWildCam 2.0 (wilds.stanford.edu)")
FMOW = Place("fmow_v1.1", "WILDS FMoW 1.1 (wilds.stanford.edu)")
OTHER_SETS = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "stl10": "torchvision:STL10",
    "dtd": "torchvision:DTD",
    "eurosat": "torchvision:EuroSAT",
    "flowers": "torchvision:Flowers102",
    "pets": "torchvision:OxfordIIITPet",
    "cars": "torchvision:StanfordCars",
    "aircraft": "torchvision:FGVCAircraft",
    "caltech101": "torchvision:Caltech101",
}
"""Sets of other classes, for what fine-tuning makes a backbone forget; torchvision lays out their files."""


def imagenet(root: Path | None, pictures: Pictures, only: Sequence[str] = ()) -> Suite:
    """ImageNet, tested on its validation pictures and, as natural shifts, on V2, R, A, Sketch and ObjectNet."""
    synsets = class_folders(IMAGENET_TRAIN.under(root))
    names = imagenet_classes()
    if len(synsets) != len(names):
        raise ValueError(
            f"{IMAGENET_TRAIN.under(root)} must hold the {len(names)} folders of ImageNet's classes, got {len(synsets)}"
        )
    chosen = _chosen(IMAGENET_SETS, only)
    return Suite(
        labelled=pictures.stored(f"classes:{IMAGENET_TRAIN.folder}", "train"),
        class_names=names,
        templates="openai",
        test_sets=tuple(_imagenet_set(name, IMAGENET_SETS[name], root, pictures, synsets) for name in chosen),
    )


def _imagenet_set(name: str, place: Place, root: Path | None, pictures: Pictures, synsets: Sequence[str]) -> TestSet:
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


def iwildcam(root: Path | None, pictures: Pictures, only: Sequence[str] = ()) -> Suite:
    """WILDS iWildCam: animals at camera traps, and at others; macro F1."""
    place = f"iwildcam:{IWILDCAM.folder}"
    every = {
        "iwildcam-id": TestSet(
            name="iwildcam-id", role="id", metric="macro_f1", source=pictures.stored(place, part="id_test")
        ),
        "iwildcam-ood": TestSet(
            name="iwildcam-ood", role="natural", metric="macro_f1", source=pictures.stored(place, part="test")
        ),
    }
    return Suite(
        labelled=pictures.stored(place, "train", part="train"),
        class_names=iwildcam_class_names(IWILDCAM.under(root)),
        templates="iwildcam",
        test_sets=tuple(every[name] for name in _chosen(every, only)),
    )


def fmow(root: Path | None, pictures: Pictures, only: Sequence[str] = ()) -> Suite:
    """WILDS FMoW: satellite pictures until 2012, and from 2016 on; of the latter, the worst region's accuracy.

    Names have spaces for underscores in all sixteen prompts; the literature has them so in four.
    """
    FMOW.under(root)
    place = f"fmow:{FMOW.folder}"
    every = {
        "fmow-id": TestSet(name="fmow-id", role="id", source=pictures.stored(place, part="id_test")),
        "fmow-ood": TestSet(
            name="fmow-ood", role="natural", metric="worst_group", source=pictures.stored(place, part="test")
        ),
    }
    return Suite(
        labelled=pictures.stored(place, "train", part="train"),
        class_names=tuple(map(spoken, FMOW_NAMES)),
        templates="fmow",
        test_sets=tuple(every[name] for name in _chosen(every, only)),
    )


def others(root: Path | None, pictures: Pictures, only: Sequence[str] = ()) -> Suite:
    """Sets of other classes, each with a zero-shot head of its own: what fine-tuning forgets. Nothing is tuned on."""
    return Suite(
        labelled=None,
        class_names=(),
        templates="simple",
        test_sets=tuple(
            TestSet(
                name=name,
                role="forgetting",
                source=pictures.stored(OTHER_SETS[name]),
                templates="simple",
                class_names=EUROSAT_NAMES if name == "eurosat" else (),
            )
            for name in _chosen(OTHER_SETS, only)
        ),
    )


SUITES: dict[str, Callable[[Path | None, Pictures, Sequence[str]], Suite]] = {
    "imagenet": imagenet,
    "iwildcam": iwildcam,
    "fmow": fmow,
    "others": others,
}
"""Suites by name: of the data root, how pictures are prepared, and the names of test sets, none of which means all."""


def image_folder(path: str, root: Path | None, pictures: Pictures) -> Suite:
    """Pictures of one's own in PATH/train/CLASS and PATH/test/CLASS, whose folders are the names in prompts."""
    names = class_folders(Place(f"{path}/train", "a folder of pictures for each class").under(root))
    source = f"imagefolder:{path}"
    return Suite(
        labelled=pictures.stored(source, "train"),
        class_names=tuple(map(spoken, sorted(names))),
        templates="simple",
        test_sets=(TestSet(name="test", role="id", source=pictures.stored(source)),),
    )


def domain_folders(path: str, trained: str, root: Path | None, pictures: Pictures) -> Suite:
    """Pictures in PATH/DOMAIN/CLASS: one domain is fine-tuned on, every other one is a natural shift."""
    folder = Place(path, "a folder of folders of classes for each domain").under(root)
    domains = class_folders(folder)
    if trained not in domains:
        raise unknown_name("domain", trained, domains)
    names = sorted({name for domain in domains for name in class_folders(folder / domain)})
    return Suite(
        labelled=pictures.stored(f"domains:{path}", "train", part=trained),
        class_names=tuple(map(spoken, names)),
        templates="simple",
        test_sets=tuple(
            TestSet(
                name=spoken(domain).replace(" ", "-"),
                role="natural",
                source=pictures.stored(f"domains:{path}", part=domain),
            )
            for domain in domains
            if domain != trained
        ),
    )


def _chosen(every: Mapping[str, object], only: Sequence[str]) -> Sequence[str]:
    for name in only:
        if name not in every:
            raise unknown_name("test set", name, every)
    return only or list(every)
