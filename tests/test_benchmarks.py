"""The benchmarks' own solvers, written without the engine's tricks, are outside truths for the engine."""

import pytest

from benchmarks.methods import sae
from benchmarks.methods.fusion import yardstick

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_a_plain_solver_reaches_the_objective_of_the_engine(alpha):
    measures = yardstick(width=0.125, alpha=alpha)
    assert measures[-1].unit == "%" and measures[-1].holds


def test_a_plain_autoencoder_has_the_loss_curve_of_ours():
    measures = sae.yardstick(sae.Size(16, 2, 512, batch_size=64, rounds=1))
    assert measures[-1].unit == "%" and measures[-1].holds
