"""A classifier that several processes fine-tune together is the one that a single process gives."""

import pytest
import torch

from amalgam.pipeline.cli.settings import Settings
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.ray.cluster import connected
from amalgam.pipeline.experiments.clip.graph import OfSeed
from amalgam.pipeline.experiments.clip.variants import variant
from amalgam.pipeline.store.clip_checkpoints import load_classifier
from tests.pipeline.steps.clip_sweep import sweep

# Ray Data, which Ray Train imports, warns of settings of its own.
pytestmark = pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning")


@pytest.mark.slow
def test_two_processes_fine_tune_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # of 2 s, which it waits at every start and end
    step = OfSeed(sweep(), 0).tuned(variant("sae-mask"), 30.0)
    together = Settings(num_workers=["tuned=2"]).equipped(step)
    assert together.fingerprint == step.fingerprint and together.resources.num_workers == 2
    run([step], tmp_path / "one", Local())
    with connected("local", []):
        run([together], tmp_path / "two", Local())
    images = torch.randn(50, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = (load_classifier(step.path(tmp_path / place))(images) for place in ("one", "two"))
    # Not weight by weight: the bias of attention's keys has no effect and no gradient but rounding, which AdamW
    # enlarges. Sums in another order change logits, of a size of about 10, by some roundings of float32 a step.
    torch.testing.assert_close(two, one, rtol=0, atol=1e-3)


def test_steps_that_one_process_builds_cannot_be_given_several():
    with pytest.raises(ValueError, match=r"'saes': .*tuned"):
        Settings(num_workers=["saes=2"]).equipped(OfSeed(sweep(), 0).tuned(variant("sae-mask"), 30.0))
