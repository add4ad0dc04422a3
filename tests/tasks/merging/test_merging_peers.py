"""TIES and task arithmetic against PEFT 0.21.2 on frozen numbers.

Made by `ties` and `task_arithmetic` of `peft/utils/merge_utils.py`, with weights of 1 and 0.3, on the task vectors
below (normal, two decimals, float64), the results rounded to nine decimals.
"""

import pytest
import torch

from amalgam import TaskArithmetic, Ties, merge

DELTAS = (
    (0.82, -0.74, -0.59, -0.4, 0.25, 0.38, 1.01, -0.76, -1.17, 0.23, 0.74, 0.77),
    (-0.75, 1.91, 0.85, 1.4, 0.55, 0.01, 0.76, 0.82, -0.93, -1.52, 0.81, 1.24),
    (-1.4, 0.75, -0.42, 1.14, -0.21, -0.12, 0.25, 0.31, -0.21, 0.94, -1.61, 1.36),
)
TIES = {
    1.0: (-1.075, 1.33, -0.505, 1.27, 0.4, 0.195, 0.673333333, 0.565, -0.77, -1.52, -1.61, 1.123333333),
    0.5: (-1.4, 1.33, 0.85, 1.27, 0.0, 0.0, 1.01, -0.76, -1.05, -1.52, -1.61, 1.123333333),
    0.25: (-1.4, 1.91, 0.0, 1.4, 0.0, 0.0, 1.01, 0.0, -1.17, -1.52, -1.61, 1.36),
}
ARITHMETIC = (-0.399, 0.576, -0.048, 0.642, 0.177, 0.081, 0.606, 0.111, -0.693, -0.105, -0.018, 1.011)


def merged(method):
    base = {"w": torch.zeros(12, dtype=torch.float64)}
    return merge(base, [{"w": torch.tensor(row, dtype=torch.float64)} for row in DELTAS], method)["w"]


@pytest.mark.parametrize("density", TIES)
def test_ties_is_that_of_peft(density):
    expected = torch.tensor(TIES[density], dtype=torch.float64)
    torch.testing.assert_close(merged(Ties(density=density)), expected, rtol=0, atol=1e-9)


def test_task_arithmetic_is_that_of_peft():
    expected = torch.tensor(ARITHMETIC, dtype=torch.float64)
    torch.testing.assert_close(merged(TaskArithmetic(scale=0.3)), expected, rtol=0, atol=1e-9)
