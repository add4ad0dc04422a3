"""What lies in folders of pictures and in their tables, read without torch and without opening a picture."""

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
OWN_NAMES = "class_names.txt"  # beside the table of a set, one name a line, where its own names make no prompts


def class_folders(path: Path) -> list[str]:
    """The folders of a folder in the order of their labels: by number where all are numbers, else by name."""
    names = [entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def pictures(folder: Path) -> list[str]:
    """The files of a folder that are pictures by their name, sorted."""
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in PICTURES)


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a .csv file. Raises ValueError if a column is missing."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        known = reader.fieldnames or ()
        missing = [column for column in columns if column not in known]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}: its columns are {', '.join(known)}")
        return list(reader)


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
