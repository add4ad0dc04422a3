"""The data sets by name: what each contains, and where its files must be under the data root.

Nothing here is ever downloaded. Add a data set of torchvision's by a line in `KNOWN`; any other one it has is
`torchvision:Name`, and what users supply is `KIND:PATH`, of a kind in `KINDS`.
"""

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from amalgam.tasks.data.layouts import dated_files
from amalgam.tasks.user_names import file_digest, file_of, is_in_file, unknown_name

MANY_FILES = 50_000  # as many are looked at in half a second on a local disk
FOLDER_IMAGE_SIZE = 224  # pixels; what nearly every network trained on pictures of many sizes is fed
Interpolation = Literal["bilinear", "bicubic"]
MOST_BYTES = 2**30  # of one picture
EVERY_LEVEL = 0  # counted down from here, the lowest is never reached
NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
NPZ = (
    f"a numpy .npz file with the arrays {', '.join(NPZ_KEYS)}, "
    "or a folder of train.npz and test.npz (or val.npz) with the arrays images, labels"
)


@dataclass(frozen=True)
class Known:
    """What is known of a data set before it is read."""

    num_classes: int
    in_shape: tuple[int, int, int]
    torchvision: str | None = None
    """Name of its class in torchvision.datasets; None comes with a package."""
    files: tuple[str, ...] = ()
    """Files it is read from, under the data root."""


def _idx_files(folder: str) -> tuple[str, ...]:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{folder}/raw/{part}-ubyte" for part in parts)


_CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

KNOWN = {
    "digits": Known(10, (1, 8, 8)),
    "mnist": Known(10, (1, 28, 28), "MNIST", _idx_files("MNIST")),
    "fashion_mnist": Known(10, (1, 28, 28), "FashionMNIST", _idx_files("FashionMNIST")),
    "kmnist": Known(10, (1, 28, 28), "KMNIST", _idx_files("KMNIST")),
    "usps": Known(10, (1, 16, 16), "USPS", ("usps.bz2", "usps.t.bz2")),
    "cifar10": Known(10, (3, 32, 32), "CIFAR10", tuple(f"cifar-10-batches-py/{f}" for f in _CIFAR10_FILES)),
    "cifar100": Known(100, (3, 32, 32), "CIFAR100", tuple(f"cifar-100-python/{f}" for f in ("train", "test", "meta"))),
    "svhn": Known(10, (3, 32, 32), "SVHN", ("train_32x32.mat", "test_32x32.mat")),
}


@dataclass(frozen=True)
class Kind:
    """A layout of files that a user-supplied data set may have."""

    layout: str
    """What must lie at its path, for messages."""
    levels: int = 1
    """Levels of folders below its path, the lowest of which contain pictures."""
    needs: tuple[str, ...] = ()
    """Files and folders without which it is not there."""
    parts: tuple[str, ...] | None = None
    """Parts it may be read in; None where it has train and test alone, empty where they are named by its folders."""
    has_classes: bool = False
    """Whether some of its classes can be read alone."""


WILDS_PARTS = ("train", "id_val", "id_test", "val", "test")
KINDS = {
    "npz": Kind(NPZ),
    "imagefolder": Kind("train/CLASS/picture.jpg and test/CLASS/picture.jpg (or val in place of test)", levels=2),
    "classes": Kind("CLASS/picture.jpg; train and test are the same", has_classes=True),
    "domains": Kind("DOMAIN/CLASS/picture.jpg; domains are groups, train and test are the same", levels=2, parts=()),
    "iwildcam": Kind("WILDS iWildCam 2.0", needs=("metadata.csv", "categories.csv", "train"), parts=WILDS_PARTS),
    "fmow": Kind("WILDS FMoW 1.1", needs=("rgb_metadata.csv", "country_code_mapping.csv", "images"), parts=WILDS_PARTS),
}
"""What may stand before a path, in the name of a data set."""
NO_PICTURES = "is not made of picture files: leave out border, crop and skip_damaged"
PREFIXES = ("torchvision", *KINDS)


class DataSpec(BaseModel):
    """A labelled set of images, how large they are made, and how their pixels are scaled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """A name in `KNOWN`, "torchvision:Name", "KIND:PATH" with a kind in `KINDS` (paths are under the data root), or
    "path/to/file.py:NAME" for a function (split, root) -> images, labels, class names in a user's file."""
    image_size: int | None = Field(default=None, gt=0)
    """Side in pixels of the squares all images are resized to; None keeps the set's own size (224 for pictures)."""
    mean: float | tuple[float, ...] = 0.5
    """Subtracted from pixels in [0, 1]; one number, or one for each channel."""
    std: float | tuple[float, ...] = 0.5
    """What the difference to the mean is divided by; one number, or one for each channel."""
    interpolation: Interpolation = "bilinear"
    """How pixels are resampled."""
    crop: float = Field(default=1.0, gt=0, le=1)
    """Side of the centre crop that is kept, as a share of the shorter side of the resized picture."""
    border: int = Field(default=0, ge=0)
    """Pixels cut off every side of a picture before it is resized (ObjectNet's red frame is 2 wide)."""
    part: str | None = None
    """A domain, or one of `WILDS_PARTS`; None takes all domains, or the part called like the split."""
    classes: tuple[str, ...] = ()
    """Folders of classes that are read, in the order of their labels; empty reads all, in order of name."""
    skip_damaged: bool = False
    """Leave out pictures that cannot be decoded, and count them; every one is decoded beforehand to know."""
    group_column: str | None = None
    """Column of the set's table (subject, camera) whose values are never on both sides of a split."""

    @model_validator(mode="after")
    def _name_is_known(self) -> "DataSpec":
        kind, _, rest = self.name.partition(":")
        if self.name not in KNOWN and not (kind in PREFIXES and rest) and not is_in_file(self.name):
            known = (*KNOWN, *(f"{prefix}:..." for prefix in PREFIXES), "file.py:NAME")
            raise unknown_name("data set", self.name, known)
        self._settings_have_an_effect()
        if 0 in (self.std if isinstance(self.std, tuple) else (self.std,)):
            raise ValueError(f"std must not be 0, got {self.std}")
        return self

    def _settings_have_an_effect(self) -> None:
        if (cost := 3 * (self.image_size or 0) ** 2) > MOST_BYTES:
            raise ValueError(f"one picture of image size {self.image_size} would take {cost / 1e9:.3g} GB: choose less")
        kind = KINDS.get(self.name.partition(":")[0], Kind(""))
        if self.part is not None and (kind.parts is None or (kind.parts and self.part not in kind.parts)):
            known = f"has {', '.join(kind.parts)}" if kind.parts else "is read as train and test"
            raise ValueError(f"data set {self.name!r} has no part {self.part!r}: it {known}")
        if self.classes and not kind.has_classes:
            raise ValueError(f"data set {self.name!r} cannot be read by class: leave classes out")
        if (self.border or self.skip_damaged or self.crop < 1) and (self.name in KNOWN or self.name.startswith("npz:")):
            raise ValueError(f"data set {self.name!r} {NO_PICTURES}")

    @property
    def num_classes(self) -> int:
        """Number of classes of a set in `KNOWN`; that of any other is `len(class_names)` once loaded."""
        return self._known().num_classes

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images of a set in `KNOWN`, resized; others have `Images.shape`."""
        channels, height, width = self._known().in_shape
        return (channels, self.image_size or height, self.image_size or width)

    def _known(self) -> Known:
        if self.name not in KNOWN:
            raise ValueError(f"the classes and image shape of {self.name!r} are known only once it is loaded")
        return KNOWN[self.name]


def path_of(spec: DataSpec, root: Path | None) -> Path:
    """The file or folder that a "KIND:PATH" names."""
    return (root or Path()) / Path(spec.name.partition(":")[2]).expanduser()


def files_digest(spec: DataSpec, root: Path | None) -> str | None:
    """16 hex digits that change with the files of a "KIND:PATH": their names, sizes and times of change.

    Quick, for no file is opened. Of a set of more than `MANY_FILES` the times of its folders stand for the pictures in
    them: those change when one is added, removed or renamed, but not when one is written over in place.

    Of a function in a user's file the digest of that file; what it reads is not looked at.
    None where nothing of that name lies there, and for sets that are what their name says. Raises ValueError for a
    folder that cannot be read.
    """
    if is_in_file(spec.name):
        return file_digest(file_of(spec.name))
    kind = KINDS.get(spec.name.partition(":")[0])
    path = path_of(spec, root)
    if kind is None or not path.exists():
        return None
    try:
        found = list(islice(dated_files(path, EVERY_LEVEL), MANY_FILES + 1))
        if len(found) > MANY_FILES:
            found = list(dated_files(path, kind.levels))
    except OSError as error:
        raise ValueError(f"data set {spec.name!r} cannot be read: {error.filename}: {error.strerror}") from error
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:16]


def how_to_fetch(torchvision_name: str, root: Path) -> str:
    """The command that downloads a torchvision data set into the layout read here."""
    call = f"from torchvision.datasets import {torchvision_name}; {torchvision_name}({str(root)!r}, download=True)"
    return f'fetch it once with: python -c "{call}"'


def check(spec: DataSpec, root: Path | None) -> None:
    """Raise ValueError, saying what to fetch and where it must lie, unless the files of `spec` are there.

    The class of a "torchvision:Name" is looked up when it is loaded: naming them all takes an import of seconds.
    """
    kind = spec.name.partition(":")[0]
    if is_in_file(spec.name):
        file_of(spec.name)
    elif kind == "imagefolder":
        _check_folders(path_of(spec, root))
    elif kind in KINDS:
        _check_kind(spec, path_of(spec, root), KINDS[kind])
    elif spec.name != "digits":
        _check_torchvision(spec, root)


def _check_kind(spec: DataSpec, path: Path, kind: Kind) -> None:
    if not (path.exists() if spec.name.startswith("npz:") else path.is_dir()):
        raise ValueError(f"data set {spec.name!r} was not found: {path} must be {kind.layout}")
    folders = [spec.part] if spec.part and kind.parts == () else list(spec.classes)
    missing = [name for name in (*kind.needs, *folders) if not (path / name).exists()]
    if missing:
        raise ValueError(
            f"data set {spec.name!r} is incomplete: {path / missing[0]} is missing; expected {kind.layout}"
        )


def _check_torchvision(spec: DataSpec, root: Path | None) -> None:
    known = KNOWN.get(spec.name)
    wanted = known.files if known else ()
    if root is None:
        place = f" that contains {wanted[0]}" if wanted else ""
        raise ValueError(
            f"data set {spec.name!r} needs a data root: give --data-root (or AMALGAM_DATA), the folder{place}"
        )
    missing = [file for file in wanted if not (root / file).is_file()]
    if known and known.torchvision and missing:
        raise ValueError(
            f"data set {spec.name!r} is not under {root}: {root / missing[0]} is missing; "
            f"{how_to_fetch(known.torchvision, root)}"
        )


def held_out_folder(folder: Path) -> Path:
    """The folder of held-out images beside `folder`/train: test, else val."""
    return folder / "test" if (folder / "test").is_dir() else folder / "val"


def _check_folders(folder: Path) -> None:
    for part in (folder / "train", held_out_folder(folder)):
        if not part.is_dir():
            raise ValueError(
                f"image folder {folder} has no {part.name} folder: it must contain train/CLASS/picture.jpg "
                f"and test/CLASS/picture.jpg (or val in place of test)"
            )
