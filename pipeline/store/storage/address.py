"""What a user writes for a root, `--root runs` or `AMALGAM_ROOT`: a folder, or the address of an object store.

The results of an object store are read and built in a folder of this machine, its cache, whose file `.storage` holds
the address. The cache is the root for all that works with files; `storage_of` finds the address.
"""

import hashlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from amalgam.pipeline.store.artifact import cache_folder, written_whole

SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+")  # `Path` has made one slash of two; a drive is no scheme
OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "abfss")
FSSPEC = "fsspec+"  # pyarrow's prefix of what any fsspec file system is reached by, such as fsspec+memory://
MARKER = ".storage"


def root_path(root: str | Path) -> Path:
    """The folder of results that a user names, or the cache of those in the object store that they name.

    Raises ValueError for an address of what cannot hold results, and for one that holds a password.
    """
    matched = SCHEME.match(str(root))
    if matched is None:
        return Path(root)
    scheme, rest = matched["scheme"].lower(), str(root)[matched.end() :]
    if scheme == "file":
        return Path("/" + unquote(rest))
    if scheme not in OBJECT_STORES and not scheme.startswith(FSSPEC):
        known = ", ".join(f"{name}://" for name in OBJECT_STORES)
        raise ValueError(f"a root cannot be at {scheme}://: give a folder or an address of {known} or {FSSPEC}NAME://")
    parts = urlsplit(f"{scheme}://{rest}")
    if "@" in parts.netloc and not scheme.startswith("abfs"):  # there the container stands before the @
        raise ValueError(
            "a root holds no credentials: leave them out of it, and give them where its tools look for them"
        )
    if not parts.netloc:
        raise ValueError(f"{scheme}:// names no bucket: give one, such as {scheme}://bucket/prefix")
    return _cache(parts.geturl().rstrip("/"))


def _cache(address: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", address.partition("?")[0])
    folder = cache_folder() / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    if not (folder / MARKER).is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with written_whole(folder / MARKER) as partial:
                partial.write_text(address + "\n")
        except OSError as error:
            raise ValueError(f"cannot write to {folder}: {error.strerror}; set AMALGAM_CACHE to a folder") from error
    return folder
