"""A step that asks for several processes is trained by them together, and gives what one gives alone."""

import pytest
import ray
import torch

from amalgam.pipeline.engine.execute import Ray, StepsFailed, run
from amalgam.pipeline.engine.ray.training import run_distributed
from amalgam.pipeline.engine.step import Resources, Step
from amalgam.tasks.training.distributed import ALONE
from tests.pipeline.engine.ray.together import place
from tests.tasks.training.together import outcome

# Ray Data, which Ray Train imports, warns of settings of its own.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning")]


@pytest.fixture(scope="module", autouse=True)
def ray_here():
    """Two cores and, as far as Ray knows, a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # of 2 s, which it waits at every start and end
        ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()


def step(name):
    return Step("together", "tests.pipeline.engine.ray.together:trained_by_two", {"name": name})


def test_two_processes_of_which_one_is_killed_give_what_one_gives_undisturbed(tmp_path):
    """On two cores, of which the step itself holds one: it must lend it while it waits."""
    training = step("in parts")
    done = run([training], tmp_path, Ray())
    found = torch.load(training.path(tmp_path) / "weights.pt", weights_only=True)
    metrics = done.records[training.fingerprint].metrics
    assert metrics == {"processes": 2, "device": "cpu", "epochs before": 1}
    for key, tensor in outcome("in parts", ALONE)["weights"].items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-8, atol=1e-10)


def test_what_a_process_refuses_is_reported_in_its_own_sentence(tmp_path):
    with pytest.raises(StepsFailed) as failed:
        run([step("refused")], tmp_path, Ray())
    # All are ended when the first has failed: either may be that one.
    assert [str(error) in ("process 0 refuses", "process 1 refuses") for error in failed.value.exceptions] == [True]
    assert not list(tmp_path.glob(".building/*"))


def test_processes_may_share_a_gpu(tmp_path):
    """Over gloo: NCCL refuses to."""
    found = run_distributed(place, Resources(num_cpus=1, num_gpus=0.5, num_workers=2), tmp_path)
    assert found == {"processes": 2, "device": "cuda:0", "backend": "gloo", "GPU": 0.5}


def test_processes_that_could_never_run_at_once_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"100 .* 1 CPUs .* [0-9]+"):
        run_distributed(place, Resources(num_workers=100), tmp_path)
    with pytest.raises(ValueError, match=r"2 .* 1 GPUs .* 1"):
        run_distributed(place, Resources(num_workers=2, num_gpus=1), tmp_path)
