"""Folders of pictures, their tables and the pictures in them, read without torch."""

import csv
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
OWN_NAMES = "class_names.txt"  # beside the table of a set, one name a line, where its own names make no prompts
NO_CONTENT = ("__MACOSX", "@eaDir", "lost+found")  # folders that archives, network storage and file systems add


def is_content(name: str) -> bool:
    """Whether a file or folder of that name belongs to a set: hidden ones, such as `.ipynb_checkpoints`, do not."""
    return not name.startswith(".") and name not in NO_CONTENT


def class_folders(path: Path) -> list[str]:
    """The folders of a folder in the order of their labels: by number where all are numbers, else by name."""
    names = [entry.name for entry in path.iterdir() if entry.is_dir() and is_content(entry.name)]
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def pictures(folder: Path) -> list[str]:
    """The files of a folder that are pictures by their name, sorted."""
    return sorted(
        entry.name for entry in folder.iterdir() if entry.suffix.lower() in PICTURES and is_content(entry.name)
    )


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a .csv file. Raises ValueError if a column is missing."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        known = reader.fieldnames or ()
        missing = [column for column in columns if column not in known]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}: its columns are {', '.join(known)}")
        return list(reader)


TABLE = "metadata.csv"
FILE_COLUMNS = ("filename", "file_name")


def column_numbers(folder: Path, files: Iterable[str], column: str | None) -> list[int] | None:
    """The number of each file's value in a column of the folder's `metadata.csv`; None if no column is given.

    Raises ValueError if there is no such table or column, or a file has no row.
    """
    if column is None:
        return None
    path = folder / TABLE
    if not path.is_file():
        raise ValueError(f"group column {column!r} needs the table {path} with the columns {FILE_COLUMNS[0]}, {column}")
    rows = read_table(path, (column,))
    name = next((name for name in FILE_COLUMNS if rows and name in rows[0]), None)
    if name is None:
        raise ValueError(f"{path} must name the file of each row in a column {' or '.join(FILE_COLUMNS)}")
    value_of = {row[name]: row[column] for row in rows}
    files = list(files)
    if missing := [file for file in files if not value_of.get(file)]:
        raise ValueError(f"{path} has no {column} of {missing[0]}: add its row")
    numbers = {value: number for number, value in enumerate(sorted(set(value_of.values())))}
    return [numbers[value_of[file]] for file in files]


def npz_array(path: Path, split: str, what: str) -> NDArray[Any]:
    """An array of a part, such as its images, from the one file or from the part's own; KeyError if it is not there."""
    names = {"train": ("train.npz",), "test": ("test.npz", "val.npz")}[split]
    own = next((path / name for name in names if (path / name).is_file()), path / names[0])
    with np.load(own if path.is_dir() else path, allow_pickle=False) as arrays:
        array: NDArray[Any] = arrays[what if path.is_dir() else f"{split}_{what}"]
        return array


def array_numbers(path: Path, split: str, column: str, count: int) -> NDArray[np.int64]:
    """The number of each image's value in an array of a part, (count, 1). Raises ValueError as `column_numbers`."""
    try:
        numbers = np.unique(npz_array(path, split, column), return_inverse=True)[1].reshape(-1, 1)
    except KeyError as error:
        raise ValueError(f"{path} has no array of the group column {column!r}: {error}") from error
    if len(numbers) != count:
        raise ValueError(f"{path} must have one {column} for each of {count} images, got {len(numbers)}")
    return numbers


def iwildcam_class_names(path: Path) -> tuple[str, ...]:
    """The names of species in the order of their labels: those of `class_names.txt`, else of the table of categories.

    The latter are scientific; the literature's prompts use English ones, which do not come with the pictures.
    """
    if (path / OWN_NAMES).is_file():
        return tuple((path / OWN_NAMES).read_text(encoding="utf-8").splitlines())
    names = {int(row["y"]): row["name"] for row in read_table(path / "categories.csv", ("y", "name"))}
    return tuple(names.get(label, f"class {label}") for label in range(max(names) + 1))


def dated_files(path: Path, levels: int, place: str = "") -> Iterator[tuple[str, int, int]]:
    """Place, size and time of change of files, and at the lowest level of folders; hidden ones are no part of a set."""
    if path.is_file():
        facts = path.stat()
        yield place, facts.st_size, facts.st_mtime_ns
        return
    with os.scandir(path) as entries:
        for entry in entries:
            name = f"{place}{entry.name}"
            if entry.name.startswith("."):
                continue
            if levels != 1 and entry.is_dir():
                yield from dated_files(Path(entry.path), levels - 1, f"{name}/")
            elif entry.is_file() or entry.is_dir():
                facts = entry.stat()
                yield name, facts.st_size, facts.st_mtime_ns


def file_size(path: Path, may_be_damaged: bool = False) -> int:
    """Size of a picture's file in bytes. Raises ValueError, unless it may be damaged, if it leads nowhere."""
    try:
        return path.stat().st_size
    except OSError as error:
        if may_be_damaged:
            return 0
        raise ValueError(f"{path} is listed, but missing: fetch it, or set skip_damaged") from error


def open_picture(path: str | Path) -> Any:
    """The picture in a file, decoded, in the mode it is stored in; the file is closed even if it is damaged."""
    from PIL import Image  # tensors need it not

    with Image.open(path) as picture:
        picture.load()
        return picture


def require_file(name: str) -> None:
    """Raise OSError unless it is a file: to open a named pipe would wait for ever."""
    if not stat.S_ISREG(os.stat(name).st_mode):
        raise OSError("it is no regular file")
