"""User-supplied pictures with captions: a table of both, or folders of classes and sentences; without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amalgam.tasks.clip.prompts import prompt, spoken
from amalgam.tasks.data.layouts import FILE_COLUMNS, class_folders, pictures, read_table

PICTURE_COLUMNS = ("picture", *FILE_COLUMNS, "filepath", "image")
CAPTION_COLUMNS = ("caption", "title", "text")


@dataclass(frozen=True)
class Pairs:
    """Pictures, and what may be said of each."""

    files: tuple[Path, ...]
    captions: tuple[tuple[str, ...], ...]
    """One or more for each picture."""

    def __post_init__(self) -> None:
        different = {caption for captions in self.captions for caption in captions}
        if len(self.files) < 2 or len(different) < 2:
            raise ValueError(
                f"pre-training needs pictures with different captions, got {len(self.files)} pictures with "
                f"{len(different)} different captions"
            )
        if missing := [file for file in self.files if not file.is_file()]:
            raise ValueError(f"picture {missing[0]} is missing: names are relative to the folder of the table")


def table_pairs(path: Path) -> Pairs:
    """The pictures of a CSV file with a column of their names and one of captions; rows of one picture are joined.

    Raises ValueError for a file without these columns or with an empty caption, and for missing pictures.
    """
    try:
        rows = read_table(path, ())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a CSV file: {error}") from error
    named, said = (_column(path, rows, columns) for columns in (PICTURE_COLUMNS, CAPTION_COLUMNS))
    found = dict[Path, list[str]]()
    for number, row in enumerate(rows, start=2):
        if not (row[named] or "").strip() or not (row[said] or "").strip():
            raise ValueError(f"{path} has no {named} or no {said} in line {number}: complete or remove it")
        found.setdefault(path.parent / row[named].strip(), []).append(row[said].strip())
    return Pairs(tuple(found), tuple(map(tuple, found.values())))


def folder_pairs(folder: Path, templates: Sequence[str]) -> Pairs:
    """The pictures of folder/train/CLASS, called by every template with the name of their class."""
    place = folder / "train"
    if not place.is_dir():
        raise ValueError(f"{place} is missing: it must contain CLASS/picture.jpg")
    files = [(place / name / file, name) for name in class_folders(place) for file in pictures(place / name)]
    captions = {name: tuple(prompt(each, spoken(name)) for each in templates) for name in class_folders(place)}
    return Pairs(tuple(file for file, _ in files), tuple(captions[name] for _, name in files))


def _column(path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str]) -> str:
    """The first of the columns that the table has. Raises ValueError if it has none, or no rows."""
    if not rows:
        raise ValueError(f"{path} has no rows: it needs the columns {PICTURE_COLUMNS[0]}, {CAPTION_COLUMNS[0]}")
    name = next((column for column in columns if column in rows[0]), None)
    if name is None:
        raise ValueError(
            f"{path} has no column {columns[0]} (nor {', '.join(columns[1:])}): its columns are "
            f"{', '.join(map(str, rows[0]))}"
        )
    return name
