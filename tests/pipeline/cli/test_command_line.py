"""The commands as a user meets them: what is printed, what is left behind, which exit code comes back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.store.artifact import read_records
from amalgam.pipeline.store.checkpoints import load_model, save_model
from amalgam.tasks.models import build
from amalgam.tasks.models.spec import ModelSpec

WALKS = "tests/pipeline/example.py:walks"
DIGITS_MLP = ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8), options={"widths": (12, 8)})


HALVES = ("--mean", "0.5", "--std", "0.5")


def amalgam(*arguments: str | Path) -> int:
    """The exit code of a command line, in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A root where two walks of the example are built."""
    root = tmp_path_factory.mktemp("built")
    assert amalgam("run", WALKS, "--local", "--root", root) == 0
    return root


def test_a_first_run_builds_and_a_second_says_that_all_is_built(tmp_path, capsys):
    assert amalgam("run", WALKS, "--local", "--root", tmp_path) == 0
    first = capsys.readouterr().out
    assert first.count("\nbuilt ") == 4  # three steps and the summary
    assert amalgam("run", WALKS, "--local", "--root", tmp_path) == 0
    again = capsys.readouterr().out
    assert again.count("\ncached ") == 3
    assert "all 3 steps were built already" in again
    assert again.splitlines()[-1].endswith(f" ui --root {tmp_path}")


def test_flags_are_the_arguments_of_the_experiment(tmp_path, capsys):
    flags = ("--seeds", "3,4", "--scale", "0.5", "--length", "2")
    assert amalgam("run", WALKS, *flags, "--local", "--root", tmp_path) == 0
    records = read_records(tmp_path)
    assert [r.config.get("seed") for r in records if r.name == "walk"] == [3, 4]
    assert [r.config for r in records if r.name == "total"] == [{"scale": 0.5}]


@pytest.mark.slow
def test_a_plan_tells_what_is_cached_and_takes_costs_from_records(built, capsys):
    assert amalgam("plan", WALKS, "--seeds", "0,7", "--root", built) == 0
    plan = capsys.readouterr().out
    assert "2 steps to run, 1 cached" in plan
    assert "unknown" not in plan
    assert not (built / ".building").exists() or not list((built / ".building").iterdir())


def test_a_plan_without_records_uses_the_guess_of_the_step(tmp_path, capsys):
    assert amalgam("plan", WALKS, "--root", tmp_path / "none") == 0
    plan = capsys.readouterr().out
    assert "about 2.0 kB, 4.0 s of work, 2.0 s at best; 1 of them of unknown cost" in plan
    assert not (tmp_path / "none").exists()


def test_show_lists_steps_and_prints_the_record_of_one(built, capsys):
    assert amalgam("show", "--root", built) == 0
    key = next(word for word in capsys.readouterr().out.split() if word.startswith("total-"))
    assert amalgam("show", key[:9], "--root", built) == 0
    assert f'"fingerprint": "{key.removeprefix("total-")}"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [("--help",), ("run", "--help"), ("plan", WALKS), ("plan", "digits_partial_fusion")]
)
def test_help_and_plans_import_nothing_heavy(command, tmp_path):
    root = () if "--help" in command else ("--root", str(tmp_path))
    code = (
        "import sys, amalgam.pipeline.__main__ as cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'ray', 'mlflow', 'pyarrow'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command, *root], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("run", "digits_partial_fushion"), "did you mean 'digits_partial_fusion'"),
        (("plan", "none.py:walks"), "there is no Python file none.py"),
        (("run", "tests/pipeline/example.py:nothing"), "has no function 'nothing'"),
        (("run", WALKS, "--local", "--length", "0"), "a walk needs a length of 1 or more, got 0"),
        (("run", WALKS, "--local", "--address", "auto"), "--address auto has no effect"),
        (("run", WALKS, "--local", "--num-cpus", "wolk=2"), "did you mean 'walk'?"),
        (("run", WALKS, "--local", "--num-gpus", "walk=one"), "such as walk=1, got 'walk=one'"),
        (("run", WALKS, "--local", "--root", "/proc/none/runs"), "cannot write to /proc/none/runs"),
        (("show", "total", "--root", "/none"), "there is no finished step 'total'"),
        (("report", "--root", "/none"), "no report lies under /none"),
    ],
)
def test_a_user_error_is_one_sentence_and_exit_code_2(command, message, capsys, tmp_path):
    root = () if "--root" in command else ("--root", tmp_path)
    assert amalgam(*command, *root) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_refusals_of_steps_are_one_sentence_each_and_kept_in_the_run(tmp_path, capsys):
    assert amalgam("run", WALKS, "--local", "--refuses", "--root", tmp_path) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert [line.partition(": ")[2] for line in error] == [f"walks with seed {seed} are refused" for seed in (0, 1)]
    [run] = (tmp_path / ".runs").iterdir()
    assert len(json.loads(run.read_text())["failures"]) == 2


def test_a_run_that_is_refused_before_anything_starts_leaves_no_record(tmp_path):
    assert amalgam("run", WALKS, "--local", "--length", "0", "--root", tmp_path) == 2
    assert not list((tmp_path / ".runs").iterdir())


def test_a_server_that_is_down_costs_nothing_and_sync_catches_up(tmp_path, capsys):
    nobody = "http://127.0.0.1:9"
    assert amalgam("run", WALKS, "--local", "--root", tmp_path, "--tracking-uri", nobody) == 0
    assert "amalgam sync" in capsys.readouterr().out
    assert amalgam("sync", "--root", tmp_path, "--tracking-uri", nobody) == 1
    assert amalgam("sync", "--root", tmp_path) == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "walks"]
    steps = [run.data.tags["step"] for run in client.search_runs([experiment.experiment_id])]
    assert sorted(steps) == ["experiment", "total", "walk", "walk"]


@pytest.mark.slow
def test_a_users_own_file_runs_on_ray_with_functions_of_its_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from pydantic import BaseModel\n"
        "from amalgam.pipeline.engine.step import Step\n"
        "class Config(BaseModel):\n    power: int\n"
        "def square(x): return x ** 2\n"
        "def work(config, inputs, work): return {'result': square(config.power)}\n"
        "def mine(power: int = 3) -> Step: return Step('mine', work, Config(power=power))\n"
    )
    assert amalgam("run", f"{tmp_path / 'mine.py'}:mine", "--root", tmp_path / "runs", "--power", "5") == 0
    [record] = read_records(tmp_path / "runs")
    assert record.metrics == {"result": 25}


@pytest.fixture
def checkpoints(tmp_path) -> list[Path]:
    """Two networks for the digits, as a user's own files."""
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, path in enumerate(paths):
        save_file(build(DIGITS_MLP, seed=seed).state_dict(), path)
    return paths


def fuse(*arguments: str | Path) -> int:
    options = ("--model", "mlp", "--model-options", '{"widths": [12, 8]}', "--data", "digits", *HALVES)
    return amalgam("fuse", *options, *arguments)


def test_fuse_writes_one_network_that_loads(checkpoints, tmp_path, capsys):
    assert fuse(*checkpoints, "--alpha", "0.5", "--out", tmp_path / "fused") == 0
    assert "ensemble" in capsys.readouterr().out
    fused = load_model(tmp_path / "fused")
    assert fused(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert {path.name for path in (tmp_path / "fused").iterdir()} == {
        "config.json",
        "pictures.json",
        "fusion.json",
        "model.safetensors",
    }


def test_fuse_meets_a_budget_of_operations(checkpoints, tmp_path):
    assert fuse(*checkpoints, "--flops", "1.3x", "--out", tmp_path / "fused") == 0
    rows = {row["network"]: row for row in json.loads((tmp_path / "fused" / "fusion.json").read_text())["results"]}
    member, fused = rows[str(checkpoints[0])]["flops"], rows["fused"]["nonzero_flops"]
    assert 1.1 * member < fused <= 1.3 * member


def test_fuse_with_all_the_weight_on_one_member_is_that_member(checkpoints, tmp_path):
    flags = ("--alpha", "0.5", "--weights", "1,0", "--calibration", "0")
    assert fuse(*checkpoints, *flags, "--out", tmp_path / "fused") == 0
    save_model(build(DIGITS_MLP, seed=0), DIGITS_MLP, tmp_path)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_model(tmp_path / "fused")(x), load_model(tmp_path)(x))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--alpha", "1.5"), "alpha must be less than or equal to 1, got 1.5"),
        ((), "--alpha"),
        (("--alpha", "0.5", "--method", "PartialUT"), "did you mean 'PartialOT'?"),
        (("--alpha", "0.5", "--weights", "0.5,0.6"), "sum to 1"),
        (("--alpha", "0.5", "--flops", "1.3x"), "leave out --alpha"),
        (("--flops", "much"), "such as 1.3x, got 'much'"),
        (("--flops", "0.5x"), "flops must be greater than or equal to 1"),
        (("--alpha", "0.5", "--weights", "half"), "numbers separated by commas"),
        (("--alpha", "0.5", "--data", "digit"), "did you mean 'digits'?"),
        (("--alpha", "0.5", "--model", "mlq"), "did you mean 'mlp'?"),
        (("--alpha", "0.5", "--model-options", '{"widths": [12, 9]}'), "but the model's is"),
        (("--alpha", "0.5", "--model-options", "widths=3"), "model options are JSON"),
        (("--alpha", "0.5", "--method-options", "fisher"), "method options are JSON"),
        (("--method", "TransportedPruning", "--method-options", '{"criterion": "size"}'), "'fisher'"),
        (("--alpha", "0.5", "--calibration", "100000"), "100000"),
    ],
)
def test_fuse_refuses_in_one_sentence_and_leaves_nothing(flags, message, checkpoints, tmp_path, capsys):
    assert fuse(*checkpoints, *flags, "--out", tmp_path / "fused") == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in checkpoints}


def test_a_plan_says_what_is_not_there_yet(tmp_path, capsys):
    assert amalgam("plan", "mnist_partial_fusion", "--data-root", tmp_path, "--root", tmp_path / "runs") == 2
    said = capsys.readouterr()
    assert "steps to run" in said.out
    [sentence] = said.err.strip().splitlines()
    assert "MNIST/raw/train-images-idx3-ubyte is missing; fetch it once with" in sentence
