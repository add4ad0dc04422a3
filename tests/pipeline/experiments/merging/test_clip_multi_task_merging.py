"""A tiny CLIP on digits and coloured pictures: fine-tuned behind fixed heads, merged, scored; and the real plan."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from amalgam import Average, merge
from amalgam.pipeline.__main__ import main
from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.store.clip_checkpoints import load_classifier
from amalgam.tasks.clip.testing.eight_tasks import EIGHT_TASKS, ClipTask
from amalgam.tasks.clip.testing.suite import PictureSettings
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.sources import Coloured
from amalgam.tasks.merging.multitask.heads import encoder_state
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import ClipSpec
from tests.tasks.clip.worlds import ARCHITECTURE, write_pictures

TINY = {**ARCHITECTURE, "text_cfg": {"context_length": 40, "width": 32, "heads": 2, "layers": 1}}
TASKS = ("digits", "imagefolder:pictures")
SCALE = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
PICTURES = PictureSettings({"image_size": 16, **SCALE, "interpolation": "bicubic"})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Reddish and greenish pictures, and a small architecture with its weights in a file."""
    root = tmp_path_factory.mktemp("data")
    write_pictures(root / "pictures", ("red_thing", "green_thing"), count=20)
    (root / "tiny.json").write_text(json.dumps(TINY))
    model = build_clip(ClipSpec(architecture=TINY)).model
    save_file(model.state_dict(), root / "weights.safetensors")
    return root


@pytest.fixture(scope="module")
def built(data, one_thread):
    """A small experiment: its root, its report and its steps by name."""
    report = EXPERIMENTS["clip_multi_task_merging"](
        tasks=TASKS,
        architecture=str(data / "tiny.json"),
        checkpoint=str(data / "weights.safetensors"),
        **SCALE,
        seeds=1,
        task_epochs=3,
        batch_size=32,
        learning_rate=3e-3,
        warmup_steps=1,
        precision="fp32",
        validation_share=0.25,
        scales=(0.3, 1.0),
    )
    run([report], data / "runs", Local(), data_root=data)
    steps = {}
    for step in ancestors([report]):
        steps.setdefault(step.name, []).append(step)
    return data / "runs", report, steps


@pytest.mark.slow
def test_heads_are_the_zero_shot_ones_and_image_towers_move(built):
    root, _, steps = built
    for head, tuned in zip(steps["task_head"], steps["tuned"], strict=True):
        before, after = load_classifier(head.path(root)), load_classifier(tuned.path(root))
        assert torch.equal(before.head.weight, after.head.weight) and torch.equal(before.head.bias, after.head.bias)
        moved = [not torch.equal(t, encoder_state(after)[name]) for name, t in encoder_state(before).items()]
        assert any(moved)


@pytest.mark.slow
def test_every_task_is_scored_with_its_own_head_and_fine_tuning_helps(built, data):
    root, report, steps = built
    table = {row["label"]: row for row in read_rows(report.path(root), "merging")}
    assert {"base", "fine-tuned", "Average", "TaskArithmetic", "Ties", "TSVM", "IsoC", "GreedySoup"} <= table.keys()
    assert table["fine-tuned"]["accuracy"] > table["base"]["accuracy"] + 0.2
    for row in table.values():
        scores = [row[f"{task}/accuracy"] for task in TASKS]
        assert row["worst_accuracy"] == min(scores) and row["accuracy"] == pytest.approx(sum(scores) / 2)
    step = steps["task_head"][0]
    images = open_source(step.config.task.test, data)
    classifier = load_classifier(step.path(root))
    with torch.no_grad():
        hits = classifier((images.pixels / 255 - channels("mean")) / channels("std")).argmax(1) == images.labels
    assert table["base"]["digits/accuracy"] == pytest.approx(hits.double().mean().item(), abs=0.003)


@pytest.mark.slow
def test_the_merged_image_tower_is_what_the_library_merges(built):
    root, _, steps = built
    members = [encoder_state(load_classifier(step.path(root))) for step in steps["tuned"]]
    step = next(step for step in steps["merged_clips"] if step.config.label == "Average")
    merged, expected = encoder_state(load_classifier(step.path(root))), merge(None, members, Average())
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_grey_pictures_in_colour_look_the_same():
    data = DataSpec(name="digits", **SCALE)
    coloured, grey = open_source(Coloured(data=data)), load(DataSpec(name="digits"), "test")
    assert coloured.shape == (3, 8, 8) and coloured.mean == SCALE["mean"] and coloured.std == SCALE["std"]
    assert all(torch.equal(coloured.pixels[:, channel], grey.pixels[:, 0]) for channel in range(3))


def test_class_names_are_as_many_as_the_classes():
    counts = {"eurosat": 10, "svhn": 10, "gtsrb": 43, "mnist": 10}
    assert {name: len(set(ClipTask.named(name, PICTURES).class_names)) for name in counts} == counts


def test_plan_prices_the_real_recipe_and_names_all_that_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plan", "clip_multi_task_merging", "--data-root", str(tmp_path), "--root", str(tmp_path / "runs")])
    printed = capsys.readouterr()
    assert ended.value.code == 2 and "GB" in printed.out and "of work" in printed.out
    lacking = {name: [line for line in printed.err.splitlines() if word in line] for name, word in WORDS.items()}
    assert all(len(lines) == 1 for lines in lacking.values()), lacking
    assert not (tmp_path / "runs").exists()


WORDS = {name: name for name in EIGHT_TASKS if name not in ("cars", "mnist")} | {
    "cars": "stanford_cars",
    "mnist": "'mnist'",
}


def test_plan_imports_no_torch(tmp_path):
    code = (
        "import sys; from amalgam.pipeline.__main__ import main\n"
        f"try: main(['plan', 'clip_multi_task_merging', '--data-root', {str(tmp_path)!r}])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout.split()[-1] == "False"


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"tasks": ("mnist",)}, "two or more"),
        ({"tasks": ("mnist", "mnist")}, "two or more"),
        ({"tasks": ("mnist", "svnh")}, "svhn"),
        ({"seeds": 0}, "seeds"),
        ({"scales": ()}, "scales"),
        ({"task_epochs": 0}, "epochs"),
    ],
)
def test_bad_flags_are_refused_before_anything_runs(flags, match):
    with pytest.raises(ValueError, match=match):
        EXPERIMENTS["clip_multi_task_merging"](**flags)


def channels(name: str) -> torch.Tensor:
    return torch.tensor(SCALE[name]).reshape(3, 1, 1)
