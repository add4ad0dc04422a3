"""The data sets by name: what each holds, and where its files must lie under the data root.

Nothing here is ever downloaded. Add a data set of torchvision's by a line in `KNOWN`; any other one it has is
`torchvision:Name`, arrays of one's own are `npz:PATH`, and folders of pictures are `imagefolder:PATH`.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.near_names import unknown_name

FOLDER_IMAGE_SIZE = 224  # pixels; what nearly every network trained on pictures of many sizes is fed
NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


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
PREFIXES = ("torchvision", "npz", "imagefolder")


class DataSpec(BaseModel):
    """A labelled set of images, how large they are made, and how their pixels are scaled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """A name in `KNOWN`, "torchvision:Name", "npz:PATH" or "imagefolder:PATH" (paths are relative to the data root)."""
    image_size: int | None = Field(default=None, gt=0)
    """Side in pixels of the squares all images are resized to; None keeps the set's own size (224 for pictures)."""
    mean: float | tuple[float, ...] = 0.5
    """Subtracted from pixels in [0, 1]; one number, or one for each channel."""
    std: float | tuple[float, ...] = 0.5
    """What the difference to the mean is divided by; one number, or one for each channel."""

    @model_validator(mode="after")
    def _name_is_known(self) -> "DataSpec":
        kind, _, rest = self.name.partition(":")
        if self.name not in KNOWN and not (kind in PREFIXES and rest):
            raise unknown_name("data set", self.name, (*KNOWN, *(f"{prefix}:..." for prefix in PREFIXES)))
        if 0 in (self.std if isinstance(self.std, tuple) else (self.std,)):
            raise ValueError(f"std must not be 0, got {self.std}")
        return self

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
    """The file or folder that a "npz:PATH" or "imagefolder:PATH" names."""
    return (root or Path()) / Path(spec.name.partition(":")[2]).expanduser()


def how_to_fetch(torchvision_name: str, root: Path) -> str:
    """The command that downloads a torchvision data set into the layout read here."""
    call = f"from torchvision.datasets import {torchvision_name}; {torchvision_name}({str(root)!r}, download=True)"
    return f'fetch it once with: python -c "{call}"'


def check(spec: DataSpec, root: Path | None) -> None:
    """Raise ValueError, saying what to fetch and where it must lie, unless the files of `spec` are there.

    The class of a "torchvision:Name" is looked up when it is loaded: naming them all takes an import of seconds.
    """
    kind = spec.name.partition(":")[0]
    if kind == "imagefolder":
        _check_folders(path_of(spec, root))
    elif kind == "npz":
        if not path_of(spec, root).is_file():
            raise ValueError(
                f"data set {spec.name!r} is not there: {path_of(spec, root)} must be a numpy .npz file "
                f"with the arrays {', '.join(NPZ_KEYS)}"
            )
    elif spec.name != "digits":
        _check_torchvision(spec, root)


def _check_torchvision(spec: DataSpec, root: Path | None) -> None:
    known = KNOWN.get(spec.name)
    wanted = known.files if known else ()
    if root is None:
        place = f" that holds {wanted[0]}" if wanted else ""
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
                f"image folder {folder} has no {part.name} folder: it must hold train/CLASS/picture.jpg "
                f"and test/CLASS/picture.jpg (or val in place of test)"
            )
