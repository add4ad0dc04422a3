"""The test suites of the literature, as data: what is fine-tuned on, what is tested, in which words and by what metric.

Nothing is fetched: every suite says which folders it needs under the data root. Importable without torch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from amalgam.tasks.clip.class_names import EUROSAT_NAMES, FMOW_NAMES
from amalgam.tasks.clip.prompts import spoken
from amalgam.tasks.clip.testing.imagenet import imagenet
from amalgam.tasks.clip.testing.suite import DataFolder, PictureSettings, Suite, chosen
from amalgam.tasks.clip.testing.test_sets import TestSet
from amalgam.tasks.data import layouts
from amalgam.tasks.data.catalogue import path_of
from amalgam.tasks.data.layouts import class_folders, iwildcam_class_names
from amalgam.tasks.data.sources import Stored
from amalgam.tasks.user_names import unknown_name

IWILDCAM = DataFolder("iwildcam_v2.0", "WILDS iWildCam 2.0 (wilds.stanford.edu)")
FMOW = DataFolder("fmow_v1.1", "WILDS FMoW 1.1 (wilds.stanford.edu)")
TEST_SHARE = 0.2  # of the domain that is fine-tuned on
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


def iwildcam(root: Path | None, pictures: PictureSettings, only: Sequence[str] = ()) -> Suite:
    """WILDS iWildCam: animals at camera traps, and at others; macro F1, also of the part that choices are made by."""
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
        labelled=_with_validation(pictures.stored(place, "train", part="train")),
        choose_by="macro_f1",
        class_names=iwildcam_class_names(IWILDCAM.under(root)),
        templates="iwildcam",
        test_sets=tuple(every[name] for name in chosen(every, only)),
    )


def fmow(root: Path | None, pictures: PictureSettings, only: Sequence[str] = ()) -> Suite:
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
        labelled=_with_validation(pictures.stored(place, "train", part="train")),
        class_names=tuple(map(spoken, FMOW_NAMES)),
        templates="fmow",
        test_sets=tuple(every[name] for name in chosen(every, only)),
    )


def _with_validation(labelled: Stored) -> Stored:
    """The same, and the official part for choices: like the training images, as no choice may see a shift."""
    return labelled.model_copy(update={"validation_part": "id_val"})


def others(root: Path | None, pictures: PictureSettings, only: Sequence[str] = ()) -> Suite:
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
            for name in chosen(OTHER_SETS, only)
        ),
    )


SUITES: dict[str, Callable[[Path | None, PictureSettings, Sequence[str]], Suite]] = {
    "imagenet": imagenet,
    "iwildcam": iwildcam,
    "fmow": fmow,
    "others": others,
}
"""Suites by name: of the data root, how pictures are prepared, and the names of test sets, none of which means all."""


def image_folder(path: str, root: Path | None, pictures: PictureSettings) -> Suite:
    """User-supplied pictures in PATH/train/CLASS and PATH/test/CLASS, whose folders are the names in prompts."""
    names = class_folders(DataFolder(f"{path}/train", "a folder of pictures for each class").under(root))
    source = f"imagefolder:{path}"
    return Suite(
        labelled=pictures.stored(source, "train"),
        class_names=tuple(map(spoken, sorted(names))),
        templates="simple",
        test_sets=(TestSet(name="test", role="id", source=pictures.stored(source)),),
    )


def domain_folders(path: str, trained: str, root: Path | None, pictures: PictureSettings) -> Suite:
    """User-supplied pictures in PATH/DOMAIN/CLASS: one domain is fine-tuned on, every other one is a natural shift.

    A share of the first, `TEST_SHARE`, is tested in distribution and not fine-tuned on.
    """
    folder = DataFolder(path, "a folder of folders of classes for each domain").under(root)
    domains = class_folders(folder)
    if trained not in domains:
        raise unknown_name("domain", trained, domains)
    names = sorted({name for domain in domains for name in class_folders(folder / domain)})
    own = pictures.stored(f"domains:{path}", "train", part=trained).model_copy(update={"test_share": TEST_SHARE})
    return Suite(
        labelled=own,
        class_names=tuple(map(spoken, names)),
        templates="simple",
        test_sets=tuple(
            TestSet(
                name=spoken(domain).replace(" ", "-"),
                role="id" if domain == trained else "natural",
                source=own.model_copy(update={"split": "test"})
                if domain == trained
                else pictures.stored(f"domains:{path}", part=domain),
            )
            for domain in (trained, *(other for other in domains if other != trained))
        ),
    )


def num_labelled(labelled: Stored, root: Path | None) -> int | None:
    """How many pictures of a folder of classes are fine-tuned on; None of sets whose folders are not counted."""
    kind, folder = labelled.data.name.partition(":")[0], path_of(labelled.data, root)
    of_classes = {"imagefolder": folder / "train", "domains": folder / (labelled.data.part or "")}.get(kind)
    if of_classes is None:
        return None
    count = sum(len(layouts.pictures(of_classes / name)) for name in class_folders(of_classes))
    return count - round(labelled.test_share * count)
