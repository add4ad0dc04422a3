"""A step that asks for several processes is trained by them together, and gives what one gives alone."""

import pytest
import torch

from pipeline.cluster import connected
from pipeline.execute import Ray, StepsFailed, run
from pipeline.ray_train import run_distributed
from pipeline.step import Step
from tasks.distributed import ALONE
from tests.tasks.together import outcome

# Ray Data, which Ray Train imports, warns of a setting of its own.
pytestmark = pytest.mark.filterwarnings("ignore:`use_push_based_shuffle` is deprecated:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def ray_here():
    with connected("local", []):
        yield


def step(name):
    return Step("together", "tests.pipeline.together:trained_by_two", {"name": name})


def test_a_step_is_trained_by_two_processes_as_by_one(tmp_path):
    """On two cores, of which the step itself holds one: it must lend it while it waits."""
    training = step("in parts")
    done = run([training], tmp_path, Ray())
    found = torch.load(training.path(tmp_path) / "weights.pt", weights_only=True)
    assert done.records[training.fingerprint].metrics == {"processes": 2, "device": "cpu"}
    for key, tensor in outcome("in parts", ALONE)["weights"].items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-8, atol=1e-10)  # as in tests/tasks/test_distributed.py


def test_what_a_process_refuses_is_said_in_its_own_sentence(tmp_path):
    with pytest.raises(StepsFailed) as failed:
        run([step("refused")], tmp_path, Ray())
    # All are ended when the first has failed: either may be that one.
    assert [str(error) in ("process 0 refuses", "process 1 refuses") for error in failed.value.exceptions] == [True]
    assert not list(tmp_path.glob(".building/*"))


def test_processes_that_could_never_run_at_once_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"100 processes with 1 CPUs each need 100, but there are [0-9]+: give fewer"):
        run_distributed(print, 100, tmp_path)
    with pytest.raises(ValueError, match="at least one process, got 0"):
        run_distributed(print, 0, tmp_path)
