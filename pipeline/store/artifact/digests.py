"""SHA-256 of files, taken once by a machine for as long as its file system says that a file is the same.

Digests of what was just written, and of what was read before, are kept in a small database in the user's cache folder:
to open a file that this machine wrote, in any process of it, takes no second pass over its bytes. A digest is forgotten
with any change of the file's size or times. Where the database cannot be kept, every process takes its own digests.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

Identity: TypeAlias = tuple[int, int, int, int, int]
"""Device, number, size and times of change of a file."""
# Within one tick of a file system's clock a second write leaves size and times as they were.
UNSETTLED = 2 * 10**9  # nanoseconds after a change in which the identity of a file is not trusted
COARSE = 10**9  # nanoseconds; a time that is a whole number of these comes from a clock of such ticks
BUSY = 1.0  # seconds to wait for another process that keeps digests
MOST = 200_000  # digests kept, 40 MB; the oldest go

_known: dict[Identity, str] = {}


def cache_folder() -> Path:
    """The folder of this machine for what may be removed at any time: digests, and copies from object stores."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amalgam"
    return Path(os.environ.get("AMALGAM_CACHE") or usual).absolute()


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    before = _identity(path)
    if found := _recalled(before):
        return found
    digest = fresh_digest(path)
    settled = time.time_ns() - max(before[3:]) >= UNSETTLED
    if settled and _identity(path) == before:
        _keep({before: digest})
    return digest


def digests_of_written(paths: list[Path]) -> list[str]:
    """SHA-256 of files that the caller has just written and that nobody else has changed since."""
    before = [_identity(path) for path in paths]
    found = [fresh_digest(path) for path in paths]
    same = [one == _identity(path) and one[3] % COARSE != 0 for one, path in zip(before, paths, strict=True)]
    _keep({one: digest for one, digest, is_same in zip(before, found, same, strict=True) if is_same})
    return found


@contextmanager
def content_kept(path: Path) -> Iterator[None]:
    """Keep the digest of a file in a block that changes its names or its rights, and not its content."""
    digest = _recalled(_identity(path))
    yield
    if digest:
        _keep({_identity(path): digest})


def fresh_digest(path: Path) -> str:
    """SHA-256 of a file, its bytes read now whatever is known of it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> Identity:
    facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _recalled(identity: Identity) -> str | None:
    if identity not in _known:
        try:
            with _database() as database:
                found = database.execute("SELECT sha256 FROM digests WHERE file = ?", (_text(identity),)).fetchone()
        except (OSError, sqlite3.Error):
            found = None
        if found is None:
            return None
        _known[identity] = str(found[0])
    return _known[identity]


def _keep(digests: Mapping[Identity, str]) -> None:
    _known.update(digests)
    if not digests:
        return
    try:
        with _database() as database, database:
            rows = [(_text(identity), digest) for identity, digest in digests.items()]
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", rows)
            database.execute("DELETE FROM digests WHERE rowid <= (SELECT max(rowid) FROM digests) - ?", (MOST,))
    except (OSError, sqlite3.Error):
        return  # The digest is only taken again: the cache folder is full, read-only, or was damaged.


def _text(identity: Identity) -> str:
    return " ".join(map(str, identity))


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "digests.db", timeout=BUSY)) as database:
        database.execute("PRAGMA synchronous = OFF")  # a digest that is lost is taken again
        database.execute("CREATE TABLE IF NOT EXISTS digests (file TEXT PRIMARY KEY, sha256 TEXT)")
        yield database
