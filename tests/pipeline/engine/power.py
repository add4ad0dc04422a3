"""A machine whose power fails: what was not flushed when it does is gone.

The adversary of `os.fsync`: names change on the disk at once, bytes only when their file is flushed. (A real file
system may also keep bytes and lose names; that flushed names are kept is checked by `Power.kept`.)
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest


class PowerCut(BaseException):
    """The moment at which everything stops."""


class Power:
    """Stands between a process and its disk, and fails after so many flushes and renames."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls_left: int | None = None) -> None:
        self._calls_left = calls_left
        self._flushed: dict[int, str] = {}
        self._names: dict[int, set[str]] = {}
        for name in ("fsync", "rename", "replace"):
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, call: Any) -> Any:
        def counted(*arguments: Any, **named: Any) -> Any:
            if self._calls_left is not None:
                if self._calls_left <= 0:
                    raise PowerCut
                self._calls_left -= 1
            done = call(*arguments, **named)
            if name == "fsync":
                self._note(arguments[0])
            return done

        return counted

    def _note(self, descriptor: int) -> None:
        facts, path = os.fstat(descriptor), Path(f"/proc/self/fd/{descriptor}")
        if stat.S_ISDIR(facts.st_mode):
            self._names[facts.st_ino] = set(os.listdir(path))
        else:
            self._flushed[facts.st_ino] = digest(path)

    def lose(self, root: Path) -> int:
        """Empty every file under `root` whose bytes were not flushed; how many."""
        lost = [path for path in files(root) if self._flushed.get(path.stat().st_ino) != digest(path)]
        for path in lost:
            path.write_bytes(b"")
        return len(lost)

    def kept(self, path: Path) -> bool:
        """Whether the name of a file or folder was flushed."""
        return path.name in self._names.get(path.parent.stat().st_ino, set())


def files(root: Path) -> list[Path]:
    """All files under `root`."""
    return sorted(path for path in root.rglob("*") if path.is_file())


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
