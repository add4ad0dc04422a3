"""Pictures in the layouts of test sets that shift: folders of classes, folders of domains, and the tables of WILDS.

Every reader lists files, labels and groups; nothing is decoded before it is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amalgam.tasks.data.catalogue import DataSpec, path_of
from amalgam.tasks.data.layouts import (
    class_folders,
    column_numbers,
    file_size,
    iwildcam_class_names,
    open_picture,
    pictures,
    read_table,
)
from amalgam.tasks.data.pixels import Images, digest
from amalgam.tasks.data.reading.pictures import decoded

FIRST_SHIFTED_YEARS = (2013, 2016)  # of FMoW: validation of the shift begins in the first, its test in the second
OTHER = "Other"  # what WILDS calls the region of a country that its table does not have


@dataclass(frozen=True)
class Listing:
    """Files of pictures, what they show, and the group they belong to."""

    root: Path
    files: tuple[str, ...]
    """Paths under the root."""
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    groups: tuple[int, ...] | None = None
    group_names: tuple[str, ...] = ()


def read_listing(spec: DataSpec, split: str, root: Path | None) -> Images:
    """The pictures of a set that is stored in one of the layouts here. Raises ValueError if there are none."""
    kind, path = spec.name.partition(":")[0], path_of(spec, root)
    listing = READERS[kind](spec, split, path)
    if not listing.files:
        raise ValueError(f"{path} contains no pictures of {spec.part or 'any class'}")
    sizes = [file_size(listing.root / file) for file in listing.files] if not spec.skip_damaged else []
    content = repr((listing.class_names, listing.files, sizes, listing.labels, listing.groups)).encode()
    return decoded(
        spec,
        lambda index: open_picture(listing.root / listing.files[index]),
        listing.labels,
        listing.class_names,
        digest(content),
        names=tuple(str(listing.root / file) for file in listing.files),
        groups=listing.groups,
        group_names=listing.group_names,
        sources=column_numbers(path, listing.files, spec.group_column),
    )


def _classes(spec: DataSpec, split: str, path: Path) -> Listing:
    names = spec.classes or tuple(class_folders(path))
    files = [(f"{name}/{file}", label) for label, name in enumerate(names) for file in pictures(path / name)]
    return Listing(path, tuple(file for file, _ in files), tuple(label for _, label in files), names)


def _domains(spec: DataSpec, split: str, path: Path) -> Listing:
    """All domains share the classes that any has, so that one head serves them."""
    domains = tuple(class_folders(path))
    names = tuple(sorted({name for domain in domains for name in class_folders(path / domain)}))
    found = [
        (f"{domain}/{name}/{file}", label, group)
        for group, domain in enumerate(domains)
        for label, name in enumerate(names)
        if spec.part in (None, domain) and (path / domain / name).is_dir()
        for file in pictures(path / domain / name)
    ]
    files, labels, groups = zip(*found, strict=True) if found else ((), (), ())
    return Listing(path, files, labels, names, groups, domains)


def _iwildcam(spec: DataSpec, split: str, path: Path) -> Listing:
    """The pictures of camera traps, all of which lie in the folder train."""
    part = spec.part or split
    rows = [row for row in read_table(path / "metadata.csv", ("split", "filename", "y")) if row["split"] == part]
    labels = tuple(int(row["y"]) for row in rows)
    return Listing(path / "train", tuple(row["filename"] for row in rows), labels, iwildcam_class_names(path))


def _fmow(spec: DataSpec, split: str, path: Path) -> Listing:
    """Satellite pictures by year: those before 2013 are in distribution; groups are regions of the world."""
    regions = {
        row["alpha-3"]: row["region"] for row in read_table(path / "country_code_mapping.csv", ("alpha-3", "region"))
    }
    rows = read_table(path / "rgb_metadata.csv", ("split", "category", "country_code", "timestamp"))
    names = tuple(sorted({row["category"] for row in rows}))
    group_names = tuple(sorted({OTHER, *regions.values()} - {""}))
    chosen = [(place, row) for place, row in enumerate(rows) if _fmow_part(row) == (spec.part or split)]
    return Listing(
        path / "images",
        tuple(f"rgb_img_{place}.png" for place, _ in chosen),
        tuple(names.index(row["category"]) for _, row in chosen),
        names,
        tuple(group_names.index(regions.get(row["country_code"]) or OTHER) for _, row in chosen),
        group_names,
    )


def _fmow_part(row: dict[str, str]) -> str | None:
    """The official part of a picture; None of one that is in no part."""
    year, (validation_from, test_from) = int(row["timestamp"][:4]), FIRST_SHIFTED_YEARS
    before, within = {"train": "train", "val": "id_val", "test": "id_test"}, {"val": "val"}
    parts = before if year < validation_from else within if year < test_from else {"test": "test"}
    return parts.get(row["split"])


READERS: dict[str, Callable[[DataSpec, str, Path], Listing]] = {
    "classes": _classes,
    "domains": _domains,
    "iwildcam": _iwildcam,
    "fmow": _fmow,
}
"""By kind of layout, what lists its files."""
