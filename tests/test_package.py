"""What is installed is `amalgam` and nothing else, it comes whole, and it stands in nobody's way."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import amalgam

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "amalgam", "pipeline", "tasks")
TEMPLATES = {path.name for path in REPOSITORY.glob("pipeline/reports/templates/*")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the working tree, built in a copy of it."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGED:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, symlinks=True)
        else:
            shutil.copy(REPOSITORY / name, source / name)
    flags = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(built))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, str(source)], check=True, cwd=source)
    return next(built.glob("amalgam-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel unpacked, as an installer would."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_importing_it_loads_no_torch():
    program = "import sys, amalgam; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", amalgam.__all__)
def test_every_public_name_is_there(name):
    assert getattr(amalgam, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="fuze"):
        amalgam.fuze  # noqa: B018


def test_the_wheel_has_one_top_level_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"amalgam", f"amalgam-{amalgam.__version__}.dist-info"}


def test_the_wheel_has_every_module_the_templates_and_the_marker_of_types(installed):
    package = installed / "amalgam"
    for folder in ("pipeline", "tasks"):
        modules = {path.relative_to(REPOSITORY / folder) for path in (REPOSITORY / folder).rglob("*.py")}
        assert {path.relative_to(package / folder) for path in (package / folder).rglob("*.py")} == modules
    assert {path.name for path in package.glob("pipeline/reports/templates/*")} == TEMPLATES
    assert (package / "py.typed").is_file()


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "amalgam"),
        # What an installer writes as the console script; the working directory comes first in the worst case.
        ("-c", "import sys; sys.path.insert(0, '.'); from amalgam.pipeline.__main__ import main; main(sys.argv[1:])"),
    ],
)
@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("plan", "digits_partial_fusion")])
def test_folders_of_a_user_named_as_ours_are_not_in_the_way(installed, tmp_path, command, arguments):
    (tmp_path / "tasks").mkdir()
    for name in ("tasks/__init__.py", "pipeline.py"):
        (tmp_path / name).write_text("raise ImportError('this is a file of the user')\n")
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_printed(capsys):
    from amalgam.pipeline.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out.split() == ["amalgam", amalgam.__version__]
