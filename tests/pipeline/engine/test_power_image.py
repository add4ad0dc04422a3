"""The power fails on a real file system: what its disk holds at a moment is mounted again, its journal replayed.

The adversary without a shim: writes that nobody has flushed are in the kernel's memory and not in the copied image.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from amalgam.pipeline.engine.execute import Event, Local, run
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.store.artifact import damage_of, verify
from tests.pipeline.example import walks

SEEDS = tuple(range(6))


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """The file system of an image, at a folder."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def image(tmp_path) -> Path:
    """An empty file system; the test is skipped where this user cannot make or mount one."""
    made = tmp_path / "disk"
    with made.open("wb") as file:
        file.truncate(24 * 2**20)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(made)], check=True, capture_output=True)
        with mounted(made, tmp_path / "probe"):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted from a file here: {error}")
    return made


@pytest.mark.slow
def test_what_was_said_to_be_built_is_on_the_disk_when_the_power_fails(image, tmp_path):
    target, ended, cuts = walks(SEEDS), list[Step](), list[tuple[Path, list[Step]]]()
    with mounted(image, tmp_path / "disk-before") as disk:

        def cut_power(event: Event) -> None:
            ended.append(event.step)
            cuts.append((tmp_path / f"cut-{len(cuts)}", list(ended)))
            (disk / cuts[-1][0].name).write_text("written and not flushed")
            shutil.copyfile(image, cuts[-1][0])

        run([target], disk / "runs", Local(), cut_power)
        whole = contents(disk / "runs")
    assert len(cuts) == len(SEEDS) + 1
    for cut, before in cuts:
        with mounted(cut, tmp_path / "disk-after") as disk:
            careless = disk / cut.name
            assert not careless.exists() or os.path.getsize(careless) == 0
            assert [damage_of(step.path(disk / "runs")) for step in before] == [None] * len(before)
            run([target], disk / "runs", Local())
            assert contents(disk / "runs") == whole and verify(disk / "runs") == (len(SEEDS) + 1, [])


def contents(root: Path) -> dict[str, bytes]:
    """What the steps wrote."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("*-*/*l*.json") if path.stem != "step"}
