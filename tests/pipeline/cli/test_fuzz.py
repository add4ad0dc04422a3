"""Whatever a user types and whatever lies in a file: an answer or one sentence, soon; never a traceback.

A bounded search: values are drawn from a corpus of what made programs fail before, and by hypothesis.
"""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.cli.flags import flags_of
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.reports.tables import plain
from amalgam.pipeline.store.artifact import finished, survey
from amalgam.pipeline.store.checkpoints import read_spec, read_state
from amalgam.pipeline.tracking.run_record import FOLDER, damaged_runs, read_runs
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.models.spec import ModelSpec

pytestmark = pytest.mark.slow

CORPUS = (
    "",
    " ",
    "0",
    "-1",
    "1",
    "2",
    "0.5",
    "-0",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "99999999999",
    "1" * 400,
    "0x10",
    "1_000",
    "1,2",
    ",",
    "1,,2",
    "1;2",
    "None",
    "null",
    "true",
    "{}",
    "[]",
    "[" * 500,
    '{"a":' * 200,
    '{"widths": [0]}',
    '{"widths": [99999999999]}',
    '{"widths": {"a": 1}}',
    r"$\frac{$",
    "%s%n",
    "%20",
    "a?b",
    "../..",
    "/dev/null",
    "~",
    "-",
    "--",
    "é",
    "\u202e",
    "\ud800",
    "x" * 5000,
    "digits",
    "imagefolder:",
    "imagefolder:.",
    "npz:/dev/zero",
    "npz:/dev/null",
    "classes:/proc",
    "torchvision:",
    "torchvision:os",
    "timm:",
    "timm:../x",
    "torchvision:resnet18",
    "mlp",
    "vgg11",
    "ft",
)
SOON = timedelta(seconds=20)
BOUNDED = settings(
    max_examples=40,
    deadline=SOON,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)
PLANNED = ("partial_fusion", "clip_styles", "clip_finetune", "multi_task_merging", "checkpoint_merging")
values = st.one_of(st.sampled_from(CORPUS), st.text(max_size=20), st.integers().map(str), st.floats().map(repr))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(CORPUS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "name", "widths"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """A plan of some experiment with a few of its flags, some of them odd."""
    name = draw(st.sampled_from(PLANNED))
    flags = [f"--{flag.name.replace('_', '-')}" for flag in flags_of(EXPERIMENTS[name])]
    chosen = draw(st.lists(st.sampled_from(flags), max_size=3, unique=True))
    return ["plan", name, *(f"{flag}={draw(values)}" for flag in chosen)]


@BOUNDED
@given(command=commands())
@example(command=["plan", "partial_fusion", "--widths=99999999999"])
@example(command=["plan", "partial_fusion", "--members=99999999999"])
@example(command=["plan", "partial_fusion", "--seeds=99999999999"])
@example(command=["plan", "partial_fusion", "--image-size=99999999999"])
@example(command=["plan", "partial_fusion", "--model-options=" + "[" * 100_000])
def test_a_plan_is_printed_or_refused_in_a_sentence(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--root", str(tmp_path)])
    out, err = capsys.readouterr()
    assert ended.value.code in (0, 2), err
    assert "Traceback" not in out + err
    assert ended.value.code == 0 or err.strip()


@settings(BOUNDED, max_examples=200)
@given(
    fields=st.dictionaries(st.sampled_from(["name", "image_size", "mean", "std", "part", "classes", "x"]), json_values)
)
def test_a_data_set_is_described_or_refused(fields):
    try:
        DataSpec.model_validate(fields)
    except ValueError as error:
        assert str(error)


@settings(BOUNDED, max_examples=200)
@given(name=st.sampled_from(["mlp", "vgg11", "resnet18", "timm:x", ""]), options=json_values, classes=json_values)
def test_a_network_is_described_or_refused(name, options, classes):
    fields = {"name": name, "num_classes": classes, "in_shape": [1, 8, 8], "options": options}
    try:
        ModelSpec.model_validate(fields)
    except ValueError as error:
        assert str(error)


@settings(BOUNDED, max_examples=200)
@given(content=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_content_of_a_record_stops_a_listing(content, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    step = root / f"member-{'0' * 16}"
    for path in (step / "step.json", root / FOLDER / "run-1.json"):
        path.parent.mkdir()
        path.write_bytes(content)
    assert finished(step) is None and len(survey(root).damaged) == 1
    assert read_runs(root) == [] and len(damaged_runs(root)) == 1


@settings(BOUNDED, max_examples=100)
@given(content=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.pt", "set.npz"])
def test_no_content_of_a_foreign_file_is_more_than_a_sentence(content, name, tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("foreign")
    (folder / name).write_bytes(content)
    try:
        if name == "config.json":
            read_spec(folder)
        elif name == "set.npz":
            load(DataSpec(name=f"npz:{folder / name}"), "train")
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_state(folder / name).values())
    except ValueError as error:
        assert str(error)


@settings(BOUNDED, max_examples=60)
@given(name=st.sampled_from(CORPUS[:-1]) | st.text("$\\{}_^frac", max_size=12))
def test_any_name_can_be_drawn(name):
    name = name.encode("utf-8", "replace").decode()[:100]
    figure = Figure(figsize=(1, 1))
    axes = figure.add_subplot()
    axes.set_yticks([0], [plain(name)])
    figure.canvas.draw()
    [label] = axes.get_yticklabels()
    assert label.get_text().replace(r"\$", "$") == name
