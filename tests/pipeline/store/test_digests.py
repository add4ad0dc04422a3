"""Digests that a machine keeps: never of other bytes than a file has, and without a second pass where it wrote it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amalgam.pipeline.store.artifact import content_kept, digest_of, file_facts, verify
from amalgam.pipeline.store.artifact.integrity import damage_of
from tests.pipeline.example import walks

WRITE = """
import sys
from pathlib import Path
from amalgam.pipeline.store.artifact import file_facts
Path(sys.argv[1], "file").write_bytes(b"content" * 1000)
print(file_facts(Path(sys.argv[1]))["file"].sha256)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("AMALGAM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "amalgam" / "digests.db"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "step").mkdir()
    return tmp_path / "step" / "file"


def unreadable(*_: object) -> None:
    raise AssertionError("the file is read again")


@pytest.mark.slow
def test_a_file_that_another_process_wrote_here_is_not_read_again(file, monkeypatch):
    command = [sys.executable, "-c", WRITE, str(file.parent)]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setattr(hashlib, "file_digest", unreadable)
    assert digest_of(file) == written


def test_a_changed_byte_changes_the_digest_even_if_size_and_time_are_put_back(file):
    file.write_bytes(b"content" * 1000)
    assert file_facts(file.parent)["file"].sha256 == digest_of(file) == hashlib.sha256(b"content" * 1000).hexdigest()
    facts = file.stat()
    changed = b"Content" + b"content" * 999
    file.write_bytes(changed)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert digest_of(file) == hashlib.sha256(changed).hexdigest()


def test_another_name_of_a_file_costs_no_second_pass(file, monkeypatch):
    file.write_bytes(b"content")
    digest = file_facts(file.parent)["file"].sha256
    with content_kept(file):
        os.link(file, file.with_name("again"))
    monkeypatch.setattr(hashlib, "file_digest", unreadable)
    assert digest_of(file.with_name("again")) == digest_of(file) == digest


@pytest.mark.parametrize("trouble", ["damaged", "no folder"])
def test_digests_are_right_without_a_database(file, cache, monkeypatch, trouble):
    if trouble == "damaged":
        cache.parent.mkdir(parents=True)
        cache.write_bytes(b"no database" * 100)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    file.write_bytes(b"content")
    assert file_facts(file.parent)["file"].sha256 == digest_of(file) == hashlib.sha256(b"content").hexdigest()


def test_verify_reads_every_byte_whatever_is_known(tmp_path, monkeypatch):
    from amalgam.pipeline.engine.execute import Local, run

    root = tmp_path / "root"
    run([walks()], root, Local())
    step = walks().path(root)
    read = list[object]()
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: read.append(given[0].name) or digest(*given))
    assert damage_of(step) is None and not read
    count, damaged = verify(root)
    assert count >= 1 and not damaged and str(step / "total.json") in map(str, read)
