"""TIES and task arithmetic against PEFT 0.21.2, and others against mergekit 0.1.5, on frozen numbers.

Made by `ties` and `task_arithmetic` of `peft/utils/merge_utils.py`, with weights of 1 and 0.3, on the task vectors
below (normal, two decimals, float64), the results rounded to nine decimals. Mergekit gives the same for its `ties` with
weights of 1 and `normalize`. `SLERP` to `BREADCRUMBS` were made by `slerp` (t = 0.3, the first two rows),
`karcher_merge_tensors` (weights of 1/3), `model_stock_merge_method` (base of zeros, rows d + |d|, so that angles are
acute) and `GeneralizedTaskArithmeticMerge` with `magnitude_outliers` (weights 0.3, density 0.5, gamma 0.1, unscaled)
of `mergekit/merge_methods`.
"""

import pytest
import torch

from amalgam import Breadcrumbs, Karcher, ModelStock, Slerp, TaskArithmetic, Ties, merge

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
SLERP = (
    0.393584848,
    0.223866543,
    -0.137452394,
    0.293605525,
    0.485625579,
    0.350290824,
    1.275424431,
    -0.306147691,
    -1.500764111,
    -0.504561604,
    1.053348171,
    1.282544622,
)
KARCHER = (
    -0.523791339,
    0.748156517,
    -0.300311766,
    0.996975742,
    0.325372879,
    0.226842837,
    1.269550661,
    -0.024669974,
    -1.447845864,
    0.013375694,
    0.016113303,
    1.94611023,
)
STOCK = (
    0.420900662,
    1.365360683,
    0.436299466,
    1.303765464,
    0.410634792,
    0.200184461,
    1.036852849,
    0.580021643,
    0.0,
    0.600553383,
    0.795604909,
    1.72979906,
)
BREADCRUMBS = (-0.174, 0.003, 0.129, 0.762, 0.0, 0.0, 0.303, 0.018, -0.279, -0.174, 0.222, 1.011)


def merged(method, rows=DELTAS):
    base = {"w": torch.zeros(12, dtype=torch.float64)}
    return merge(base, [{"w": torch.tensor(row, dtype=torch.float64)} for row in rows], method)["w"]


@pytest.mark.parametrize("density", TIES)
def test_ties_is_that_of_peft(density):
    expected = torch.tensor(TIES[density], dtype=torch.float64)
    torch.testing.assert_close(merged(Ties(density=density)), expected, rtol=0, atol=1e-9)


def test_task_arithmetic_is_that_of_peft():
    expected = torch.tensor(ARITHMETIC, dtype=torch.float64)
    torch.testing.assert_close(merged(TaskArithmetic(scale=0.3)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "rows", "known"),
    [
        (Slerp(t=0.3), DELTAS[:2], SLERP),
        (Karcher(), DELTAS, KARCHER),
        (ModelStock(), [[d + abs(d) for d in row] for row in DELTAS], STOCK),
        (Breadcrumbs(scale=0.3, density=0.5, gamma=0.1), DELTAS, BREADCRUMBS),
    ],
    ids=["Slerp", "Karcher", "ModelStock", "Breadcrumbs"],
)
def test_others_are_those_of_mergekit(method, rows, known):
    torch.testing.assert_close(merged(method, rows), torch.tensor(known, dtype=torch.float64), rtol=0, atol=1e-6)
