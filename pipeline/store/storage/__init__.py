"""Where results lie: a folder of a local or shared file system, or an object store with a folder as its cache."""

from pathlib import Path

from amalgam.pipeline.store.storage.address import MARKER, SCHEME, root_path
from amalgam.pipeline.store.storage.bucket import Bucket
from amalgam.pipeline.store.storage.folder import Folder, newest, size_of
from amalgam.pipeline.store.storage.process import Process

__all__ = ["Bucket", "Folder", "Process", "folder_path", "newest", "root_path", "size_of", "storage_of"]


def storage_of(root: Path) -> Folder:
    """What keeps the results of a root: the folder itself, or the object store whose cache it is.

    Raises ValueError for a name that no folder can have, and for the damaged cache of an object store.
    """
    try:
        address = (root / MARKER).read_bytes().decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return Folder(root)
    except OSError as error:
        raise ValueError(f"{root} cannot be a root: {error.strerror}") from error
    if not SCHEME.match(address):
        raise ValueError(f"{root / MARKER} names no object store: remove it, and give the address as the root again")
    return Bucket(root, address)


def folder_path(root: str | Path) -> Path:
    """The folder that a user names for what needs one. Raises ValueError for an address of an object store."""
    found = root_path(root)
    if address := storage_of(found).address:
        raise ValueError(f"this command needs a root that is a folder, got {address}: give one, such as --root runs")
    return found
