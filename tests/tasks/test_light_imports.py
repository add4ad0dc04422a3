"""What plans and help pages read imports no torch, which takes seconds."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "amalgam.tasks.data.catalogue",
        "amalgam.tasks.explain.vocabulary",
        "amalgam.tasks.data.sources",
        "amalgam.tasks.data.splits",
        "amalgam.pipeline.experiments",
        "amalgam.tasks.models.spec",
        "amalgam.tasks.models.clip_spec",
        "amalgam.tasks.training.config",
        "amalgam.tasks.fusion",
        "amalgam.tasks.merging",
        "amalgam.tasks.clip.finetuning.config",
        "amalgam.tasks.clip.toy.worlds",
        "amalgam.pipeline.steps.clip.path",
        "amalgam.tasks.clip.testing.suites",
        "amalgam.pipeline.steps.clip.features",
        "amalgam.pipeline.reports.robustness.config",
        "amalgam.tasks.scoring.selection",
        "amalgam.tasks.scoring.results",
    ],
)
def test_values_are_read_without_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
