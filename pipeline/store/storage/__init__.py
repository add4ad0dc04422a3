"""Where results lie: a folder of a local or shared file system, or an object store with a folder as its cache."""

from pathlib import Path

from amalgam.pipeline.store.storage.address import MARKER, root_path
from amalgam.pipeline.store.storage.bucket import Bucket
from amalgam.pipeline.store.storage.folder import Folder, newest, size_of
from amalgam.pipeline.store.storage.process import Process

__all__ = ["Bucket", "Folder", "Process", "folder_path", "newest", "root_path", "size_of", "storage_of"]


def storage_of(root: Path) -> Folder:
    """What keeps the results of a root: the folder itself, or the object store whose cache it is."""
    try:
        return Bucket(root, (root / MARKER).read_text().strip())
    except (FileNotFoundError, NotADirectoryError):
        return Folder(root)


def folder_path(root: str | Path) -> Path:
    """The folder that a user names for what needs one. Raises ValueError for an address of an object store."""
    found = root_path(root)
    if address := storage_of(found).address:
        raise ValueError(f"this command needs a root that is a folder, got {address}: give one, such as --root runs")
    return found
