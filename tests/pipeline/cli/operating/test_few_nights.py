"""Of a second night the same test images and the seeds say how much is chance, before other nights can."""

from functools import reduce

import pytest

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.cli.operating.evidence import chance, paired
from amalgam.pipeline.engine.execute import Event, Local, run
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.store.tables.predictions import PREDICTIONS
from amalgam.pipeline.tracking.nights.record import metrics_of, read_nights
from amalgam.pipeline.tracking.run_record import RunRecord

EXPERIMENT = """
import numpy as np
import torch
from pathlib import Path
from pydantic import BaseModel
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.store.tables.predictions import PREDICTIONS, Answers, write_predictions
from amalgam.pipeline.store.tables.results import write_results
from amalgam.tasks.scoring.metrics import Predictions
from amalgam.tasks.scoring.results import Network, Result

class Config(BaseModel):
    seed: int
    level: str
    kept: bool

def measure(config, inputs, work):
    generator = np.random.default_rng(config.seed)
    difficulty = np.random.default_rng(10**9).uniform(-0.05, 0.05, size=2000)
    hits = generator.uniform(size=2000) < float(Path(config.level).read_text()) + difficulty
    network = Network(kind="rival", method="ours", seed=config.seed)
    write_results([Result(network, "unseen", "pictures", "accuracy", hits.mean())], work.out)
    if config.kept:
        labels = torch.arange(2000) % 10
        classes = torch.where(torch.from_numpy(hits), labels, (labels + 1) % 10)
        words = {"confidence": torch.ones(2000), "nll": torch.ones(2000), "groups": torch.full((2000,), -1)}
        answers = Predictions(ids=torch.arange(2000), labels=labels, classes=classes, **words)
        write_predictions(work.out / PREDICTIONS, [Answers("pictures", "unseen", "alpha=1", answers)])
    return {"unseen/ours": float(hits.mean())}

def shop(level: str, kept: bool = True, first_seed: int = 0) -> Step:
    return Step("shop", measure, Config(seed=first_seed, level=level, kept=kept))
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "shop.py").write_text(EXPERIMENT)
    (tmp_path / "level.txt").write_text("0.8")
    return tmp_path


def night(shop, seed, *flags):
    command = ["night", f"{shop / 'shop.py'}:shop", "--level", str(shop / "level.txt"), "--local", "--seed", str(seed)]
    with pytest.raises(SystemExit) as left:
        main([*command, "--root", str(shop / "runs"), "--tolerance", "unseen=0.5pt", *flags])
    return left.value.code or 0


@pytest.mark.slow
def test_a_second_night_is_no_regression_by_what_differs_from_image_to_image(shop, capsys):
    """Networks of equal quality that answer 2000 images differ by 1.3 points, as a standard deviation."""
    assert night(shop, 5) == 0 and night(shop, 4, "--baseline", _first(shop)) == 0
    [finding] = read_nights(shop / "runs", "shop")[1].findings
    assert finding["fall"] > 0.02, "which the tolerance alone would flag"
    (shop / "level.txt").write_text("0.7")
    assert night(shop, 3) == 3
    capsys.readouterr()
    first, *_, last = [one.run for one in read_nights(shop / "runs", "shop")]
    with pytest.raises(SystemExit):
        main(["compare", first, last, "--root", str(shop / "runs")])
    assert "unseen accuracy of ours: -0.1" in capsys.readouterr().out


def test_without_predictions_the_tolerance_alone_decides_the_second_night(shop):
    assert night(shop, 0, "--no-kept") == 0
    (shop / "level.txt").write_text("0.78")
    assert night(shop, 0 + 10**6, "--no-kept") in (0, 3)
    [finding] = read_nights(shop / "runs", "shop")[1].findings
    assert finding["noise"] == 0 and (finding["kind"] == "regression") == (finding["fall"] > 0.005)


def fusion(root, seed: int, epochs: int) -> RunRecord:
    """A run of a small experiment on fusion."""
    small = {"members": 2, "widths": (12, 8), "probe_rows": 40, "alphas": (0.5,), "first_weight": (0.2, 0.5)}
    target = EXPERIMENTS["digits_partial_fusion"](
        **small, rivals=(), combiners=("temperature",), seeds=1, first_seed=seed, epochs=epochs
    )
    events = list[Event]()
    run([target], root, Local(), events.append)
    return reduce(RunRecord.after, events, RunRecord.begun("fusion", {}, [target])).ended()


@pytest.mark.slow
def test_networks_of_fusion_are_paired_by_test_image_with_every_weighting_apart(tmp_path, capsys):
    """The paired lead is the difference of the accuracies that the reports give, of each network and ensemble."""
    first, second = fusion(tmp_path, 0, 1), fusion(tmp_path, 7, 2)
    old, new = (metrics_of(one, tmp_path) for one in (first, second))
    leads = {label.replace(",", ""): ahead for (_, label), ahead in paired(first, second, tmp_path).items()}
    named = {name.removeprefix("accuracy/"): name for name in old if not name.endswith("member")}
    assert len(named) > 8 and named.keys() <= leads.keys()
    for label, name in named.items():
        assert leads[label].value == pytest.approx(new[name] - old[name], abs=1e-12)
        assert leads[label].low <= leads[label].value <= leads[label].high
    known = chance(second, first, tmp_path)
    assert all(known[name] > 0 for name in old), "a night of one seed knows what differs from image to image"
    damaged = next(tmp_path.glob("fused-*")) / PREDICTIONS
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    without = paired(first, second, tmp_path)
    assert len(without) == len(leads) - 1 and damaged.parent.name in capsys.readouterr().out


def _first(shop) -> str:
    return read_nights(shop / "runs", "shop")[0].run
