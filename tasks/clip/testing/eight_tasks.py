"""The eight tasks on which merges of fine-tuned CLIPs are compared since Ilharco et al. (2023), as data.

Where files must lie, in which words classes are put (prompts of Radford et al. 2021), and how long is fine-tuned. Any
other data set by name is a task too. Importable without torch.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from amalgam.tasks.clip.class_names import DIGITS, EUROSAT_NAMES, GTSRB_NAMES
from amalgam.tasks.clip.testing.suite import PictureSettings
from amalgam.tasks.data.sources import Coloured

NUMBERS = ('a photo of the number: "{}".',)
CARS = (
    *("a photo of a {}.", "a photo of the {}.", "a photo of my {}.", "i love my {}!"),
    *(f"a photo of my {kind} {{}}." for kind in ("dirty", "clean", "new", "old")),
)
TEXTURES = tuple(f"a photo of {a} {{}} {b}." for a in ("a", "the") for b in ("texture", "pattern", "thing", "object"))
SIGNS = tuple(f'a {view} photo of a "{{}}" traffic sign.' for view in ("zoomed in", "centered", "close up"))
FROM_ABOVE = tuple(
    f"{view} {what} of {article}{{}}."
    for article in ("", "a ", "the ")
    for what in ("imagery", "photo", "view")
    for view in ("satellite", "aerial")
)
CENTERED = tuple(f"a centered satellite photo of {article}{{}}." for article in ("", "a ", "the "))


@dataclass(frozen=True)
class Known:
    """What is known of a task before its files are read."""

    data: str
    """Name of the data set."""
    num_train: int
    num_test: int
    epochs: int
    """Passes over the training images that make about 2,000 steps of 128 images (Ilharco et al. 2023)."""
    templates: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    """Empty: what the files call their classes."""
    files: tuple[str, ...] = ()
    """What must lie under the data root, where the data set's own check does not say."""


_CARS = tuple(
    f"stanford_cars/{n}" for n in ("devkit/cars_meta.mat", "cars_train", "cars_test", "cars_test_annos_withlabels.mat")
)
_GTSRB = ("gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv")
EIGHT_TASKS = {
    "sun397": Known("imagefolder:sun397", 19_850, 19_850, 14, ("a photo of a {}.", "a photo of the {}.")),
    "cars": Known("torchvision:StanfordCars", 8_144, 8_041, 35, CARS, files=_CARS),
    "resisc45": Known("imagefolder:resisc45", 18_900, 6_300, 15, FROM_ABOVE),
    "eurosat": Known("imagefolder:eurosat", 21_600, 2_700, 12, CENTERED, EUROSAT_NAMES),
    "svhn": Known("svhn", 73_257, 26_032, 4, NUMBERS, DIGITS),
    "gtsrb": Known("torchvision:GTSRB", 26_640, 12_630, 11, SIGNS, GTSRB_NAMES, _GTSRB),
    "mnist": Known("mnist", 60_000, 10_000, 5, NUMBERS, DIGITS),
    "dtd": Known("torchvision:DTD", 1_880, 1_880, 76, TEXTURES, files=("dtd/dtd/images", "dtd/dtd/labels/train1.txt")),
}
"""By name. Sets without an official split in torchvision are folders train/CLASS and test/CLASS."""
OTHER = Known("", 10_000, 2_000, 10, ("a photo of a {}.",))
"""What is assumed of any other data set."""


class ClipTask(BaseModel):
    """A task: what is trained on and tested, and the words that make its head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    train: Coloured
    test: Coloured
    class_names: tuple[str, ...] = ()
    """Empty takes the names that come with the images."""
    templates: tuple[str, ...]

    @classmethod
    def named(cls, name: str, pictures: PictureSettings) -> "ClipTask":
        """One of the eight, or any data set by name. Raises ValueError for a name that is neither."""
        known = EIGHT_TASKS.get(name, OTHER)
        data = pictures.stored(known.data or name).data
        return cls(
            name=name,
            train=Coloured(data=data, split="train"),
            test=Coloured(data=data),
            class_names=known.class_names,
            templates=known.templates,
        )


def check_files(name: str, root: Path | None) -> None:
    """Raise ValueError, saying how many others are, if a file of one of the eight tasks is missing."""
    missing = [file for file in EIGHT_TASKS.get(name, OTHER).files if root is None or not (root / file).exists()]
    if missing:
        place = root / missing[0] if root else missing[0]
        more = f" (and {len(missing) - 1} more: {', '.join(missing[1:])})" if missing[1:] else ""
        raise ValueError(f"task {name!r} lacks {place}{more}: unpack it as torchvision lays it out")
