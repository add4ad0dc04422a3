"""What plans and help pages read imports no torch, which takes seconds."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "tasks.data.catalogue",
        "tasks.explain.vocabulary",
        "tasks.data.sources",
        "tasks.data.splits",
        "tasks.models.spec",
        "tasks.models.clip_spec",
        "tasks.train_config",
        "tasks.fusion",
        "tasks.clip.finetune_config",
        "tasks.clip.worlds",
        "pipeline.steps.robustness_config",
        "tasks.clip.suites",
        "pipeline.steps.features_config",
        "pipeline.steps.robustness_report_config",
        "tasks.clip.selection",
    ],
)
def test_values_are_read_without_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
