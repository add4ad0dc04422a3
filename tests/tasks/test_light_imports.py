"""What plans and help pages read imports no torch, which takes seconds."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "tasks.data.catalogue",
        "tasks.data.splits",
        "tasks.models.spec",
        "tasks.models.clip_spec",
        "tasks.train_config",
        "tasks.fusion",
        "tasks.clip.finetune_config",
    ],
)
def test_values_are_read_without_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
