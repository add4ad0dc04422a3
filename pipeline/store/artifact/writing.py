"""Write whole or not at all, and so that it is still there after a power cut.

A rename may reach the disk before the bytes of the renamed file do: after a power cut the name is there and the file is
empty. So files are flushed, then the folders that name them, then the name is changed, then its folder is flushed. All
files of a folder are flushed at once from several threads, so that the file system commits them together.
"""

import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

FLUSHED_TOGETHER = 16  # files
CANNOT_FLUSH = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)  # of folders, on some network file systems


def flush(folder: Path) -> None:
    """Make the files and folders under `folder` last, its own list of names included."""
    files, folders = list[Path](), list[Path]()
    for place, _, names in os.walk(folder, topdown=False):
        files += [Path(place, name) for name in names]
        folders.append(Path(place))
    files = [file for file in files if file.is_file() and not file.is_symlink()]
    if len(files) > 1:
        with ThreadPoolExecutor(min(FLUSHED_TOGETHER, len(files))) as pool:
            list(pool.map(_flush, files))
    elif files:
        _flush(files[0])
    for path in folders:
        flush_names(path)


def flush_names(folder: Path) -> None:
    """Make the names in a folder last, where its file system can."""
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH:
            raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(folder: Path, destination: Path) -> None:
    """Move a whole folder to its place in one rename, for good. Raises OSError if something lies there."""
    flush(folder)
    os.rename(folder, destination)
    flush_names(destination.parent)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file to write in, beside `path`, that takes its place for good if the block succeeds; else it is removed.

    Its name is unique among all machines that see the folder, so that two writers never share it.
    """
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
        flush_names(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to write in, beside `destination`, that takes its place, for good, only if the block succeeds.

    Raises ValueError if `destination` exists or its place cannot be written.
    """
    check_writable(destination.parent)
    if destination.exists():
        raise ValueError(f"{destination} exists already: choose another folder or remove it")
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as place:
        folder = Path(place) / destination.name
        folder.mkdir()
        yield folder
        publish(folder, destination)


def check_writable(root: Path) -> None:
    """Raise ValueError, in one sentence, if `root` cannot be made or written, by writing a megabyte there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as probe:
            probe.write(bytes(2**20))
            probe.flush()
    except OSError as error:
        raise ValueError(
            f"cannot write to {root}: {error.strerror or error}; free it or choose another folder"
        ) from error
