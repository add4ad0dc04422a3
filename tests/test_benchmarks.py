"""The benchmarks' own solver, written without the engine's tricks, is an outside truth for the engine."""

import pytest

from benchmarks.fusion import yardstick


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_a_plain_solver_reaches_the_objective_of_the_engine(alpha):
    measures = yardstick(width=0.125, alpha=alpha)
    assert measures[-1].unit == "%" and measures[-1].holds
