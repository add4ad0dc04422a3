"""What the pages on extending say is true: their code, in a user's file, is enough for a method, a regulariser, ..."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import ray

from amalgam.pipeline.engine.ray.user_files import travel_by_value
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.clip.variants import from_file
from amalgam.pipeline.store.artifact import read_records
from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from tests.pipeline.cli.test_command_line import amalgam
from tests.pipeline.experiments.clip.test_clip_finetune import FLAGS
from tests.pipeline.experiments.clip.test_clip_finetune import data as pictures  # noqa: F401

DOCS = Path(__file__).parents[1] / "docs"
pytestmark = pytest.mark.slow
TINY = (
    "--seeds",
    "1",
    "--epochs",
    "1",
    "--probe-rows",
    "50",
    "--alphas",
    "0.5",
    "--batch-size",
    "32",
    "--rivals",
    "none",
)
OWN = ("--data", "mine.py:stripes", "--num-classes", "2", "--channels", "1", "--image-size", "8")
SMALL = (*OWN, "--model", "mine.py:Small", *TINY)


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A folder in which `mine.py` has all the code of the pages."""
    pages = sorted((DOCS / "extending").glob("*.md"))
    blocks = [
        block for page in pages for block in re.findall(r"```python\n# mine.py\n(.*?)```", page.read_text(), re.S)
    ]
    assert len(pages) == 3 and len(blocks) == 4
    (tmp_path / "mine.py").write_text("\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labels(root: Path) -> set[str]:
    """The rows of the one report on fusion."""
    (table,) = root.glob("report-*/frontier.parquet")
    return set(pd.read_parquet(table)["label"])


def keys(capsys, *command: str) -> dict[str, set[str]]:
    """Fingerprints of the steps of a plan, by kind."""
    capsys.readouterr()
    assert amalgam("plan", *command) == 0
    found = re.findall(r"^(\w+)-(\w{16})", capsys.readouterr().out, re.MULTILINE)
    return {kind: {key for each, key in found if each == kind} for kind, _ in found}


def changed(capsys, *command: str) -> set[str]:
    """Kinds of steps that are others when the file has another line."""
    before = keys(capsys, *command)
    Path("mine.py").write_text(Path("mine.py").read_text() + "\nANOTHER = 1\n")
    after = keys(capsys, *command)
    return {kind for kind in before if before[kind] != after[kind]}


def test_a_method_of_a_users_file_is_compared_with_others(mine):
    methods = ("--methods", "Identity,PartialOT,mine.py:FirstHalf", "--widths", "12,8")
    assert amalgam("run", "partial_fusion", *methods, *TINY, "--local") == 0
    assert {"Identity", "PartialOT 0.5", "FirstHalf"} <= labels(mine / "runs")


def test_a_data_set_and_a_model_of_a_users_file_are_trained_and_fused(mine):
    assert amalgam("run", "partial_fusion", *SMALL, "--methods", "Identity,PartialOT", "--local") == 0
    assert {"member 0", "Identity", "PartialOT 0.5"} <= labels(mine / "runs")
    (member, *_) = (mine / "runs").glob("member-*/model.safetensors")
    flags = ("--model", "mine.py:Small", "--data", "mine.py:stripes", "--alpha", "0.5", "--calibration", "100")
    assert amalgam("fuse", member, member, *flags, "--out", mine / "fused") == 0
    assert (mine / "fused/model.safetensors").is_file()


def test_a_regulariser_of_a_users_file_is_one_more_method(mine, pictures):  # noqa: F811
    flags = (*FLAGS, "--methods", "ft,mine.py:Huber", "--anchors", "live", "--data-root", pictures)
    assert amalgam("run", "clip_finetune", *flags, "--checkpoint", pictures / "weights.safetensors", "--local") == 0
    (table,) = (mine / "runs").glob("robustness-*/robustness.parquet")
    assert set(pd.read_parquet(table)["method"]) == {"zero-shot", "ft", "Huber"}


def test_all_of_them_reach_the_workers_of_ray(mine):
    assert amalgam("run", "partial_fusion", *SMALL, "--methods", "mine.py:FirstHalf") == 0
    assert {"member", "fused"} <= {record.name for record in read_records(mine / "runs")}


def test_a_regulariser_travels_to_workers_that_have_no_such_file(mine, tmp_path_factory):
    elsewhere, (name, way) = tmp_path_factory.mktemp("elsewhere"), from_file("mine.py:Huber")
    config = FinetuneConfig(regulariser=way.regulariser)
    travel_by_value([Step("tuned", "tests.pipeline.example:walk", config)])
    (elsewhere / "config").write_bytes(ray.cloudpickle.dumps(config))
    program = "import pickle; config = pickle.load(open('config', 'rb')); print(type(config.regulariser).__name__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=elsewhere, capture_output=True, text=True)
    assert done.stdout.strip() == name, done.stderr


def test_other_code_in_the_file_changes_what_reads_it_and_nothing_else(mine, pictures, capsys):  # noqa: F811
    fusion = ("partial_fusion", "--methods", "mine.py:FirstHalf", *TINY)
    after = changed(capsys, *fusion)
    assert {"matching", "fused", "report"} <= after and not {"member", "evaluation", "ensemble"} & after
    assert {"member", "evaluation"} <= changed(capsys, "partial_fusion", "--model", "mine.py:Small", *TINY)
    assert {"member", "evaluation"} <= changed(capsys, "partial_fusion", *OWN, "--widths", "8", *TINY)
    places = ("--data-root", str(pictures), "--checkpoint", str(pictures / "weights.safetensors"))
    tuning = ("clip_finetune", *FLAGS, "--methods", "ft,mine.py:Huber", *places)
    assert changed(capsys, *tuning) == {"tuned", "path", "robustness"}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--data", "gone.py:stripes", "--num-classes", "2"), "gone.py"),
        (("--data", "mine.py:none", "--num-classes", "2"), "'none'"),
        (("--data", "mine.py:Huber", "--num-classes", "2"), "mine.py:Huber"),
        (("--model", "gone.py:Small"), "gone.py"),
        (("--model", "mine.py:none"), "'none'"),
        (("--model", "mine.py:stripes"), "mine.py:stripes"),
        (("--model", "mine.py:Small", "--bias"), "'bias'"),
    ],
)
def test_a_file_that_lacks_it_is_one_sentence_before_anything_is_built(mine, flags, named, capsys):
    assert amalgam("run", "partial_fusion", *flags, *TINY, "--local") == 2
    error = capsys.readouterr().err.strip()
    *_, sentence = error.splitlines()  # MLflow may report its own start before it
    assert named in sentence
    assert not read_records(mine / "runs")


@pytest.mark.parametrize(("name", "named"), [("gone.py:A", "gone.py"), ("mine.py:none", "none"), ("mine.py:np", "np")])
def test_a_file_without_the_regulariser_is_one_sentence(mine, pictures, name, named, capsys):  # noqa: F811
    flags = (*FLAGS, "--methods", name, "--data-root", pictures, "--checkpoint", pictures / "weights.safetensors")
    assert amalgam("plan", "clip_finetune", *flags) == 2
    error = capsys.readouterr().err.strip()
    assert named in error and len(error.splitlines()) == 1
