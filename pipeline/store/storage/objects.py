"""The objects under an address, through pyarrow's file systems."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

AT_ONCE = 16  # requests; a store takes tens of milliseconds for each


class PrefixObjects:
    """Objects by name, the rest of their path below a prefix."""

    def __init__(self, address: str) -> None:
        self.files, self.prefix = _opened(address)

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None if there is none."""
        try:
            with self.files.open_input_stream(self._path(name)) as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Make an object, in place of an earlier one, whole or not at all."""
        with self.files.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        try:
            self.files.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Size in bytes of every object under a folder, by its name below that folder."""
        from pyarrow.fs import FileSelector, FileType  # here, not above: few roots need it

        place = self._path(folder)
        infos = self.files.get_file_info(FileSelector(place, allow_not_found=True, recursive=True))
        start = len(place) + 1
        return {info.path[start:]: info.size for info in infos if info.type == FileType.File}

    def upload(self, source: Path, folder: str, names: Iterable[str]) -> None:
        """Copy these files of a folder of this machine to objects under `folder`."""
        from pyarrow.fs import LocalFileSystem, copy_files

        def copy(name: str) -> None:
            copy_files(str(source / name), self._path(f"{folder}/{name}"), LocalFileSystem(), self.files)

        each(copy, names)

    def download(self, folder: str, destination: Path) -> None:
        """Copy all objects under `folder` to a folder of this machine."""
        from pyarrow.fs import LocalFileSystem, copy_files

        def copy(name: str) -> None:
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            copy_files(self._path(f"{folder}/{name}"), str(destination / name), self.files, LocalFileSystem())

        each(copy, self.sizes(folder))

    def move(self, folder: str, destination: str, first: str) -> None:
        """Give all objects under `folder` other names, that named `first` before the others."""
        names = sorted(self.sizes(folder), key=lambda name: name != first)
        for name in names:
            self.files.move(self._path(f"{folder}/{name}"), self._path(f"{destination}/{name}"))

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}" if name else self.prefix


def each(act: Any, items: Iterable[Any]) -> list[Any]:
    """What `act` gives for each of the items, many of them at once, in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(act, items))


@cache
def _opened(address: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    files, prefix = FileSystem.from_uri(address)
    return files, prefix.rstrip("/")
