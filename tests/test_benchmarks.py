"""The benchmarks' own solvers, written without the engine's tricks, are outside truths for the engine."""

import subprocess
import sys
import zipfile

import pytest

from benchmarks import gpu
from benchmarks.methods import sae
from benchmarks.methods.fusion import yardstick

NOT_IN_THE_WHEELS = ("ray", "mlflow", "typer", "matplotlib")


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_a_plain_solver_reaches_the_objective_of_the_engine(alpha):
    measures = yardstick(width=0.125, alpha=alpha)
    assert measures[-1].unit == "%" and measures[-1].holds


@pytest.mark.slow
def test_a_plain_autoencoder_has_the_loss_curve_of_ours():
    measures = sae.yardstick(sae.Size(16, 2, 512, batch_size=64, rounds=1))
    assert measures[-1].unit == "%" and measures[-1].holds


def test_every_part_that_waits_for_a_gpu_runs_with_torch_and_a_few_wheels():
    program = f"""
import sys, torch
from benchmarks import gpu
for name in gpu.PARTS:
    assert all(found.value >= 0 for found in gpu.measured(name, "cpu", tiny=True)), name
assert not set({NOT_IN_THE_WHEELS}) & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_limits_of_all_parts_are_eight_minutes():
    assert sum(part.most_seconds for part in gpu.PARTS.values()) <= 8 * 60


@pytest.mark.slow
def test_the_command_for_a_gpu_writes_its_table_and_names_a_part_that_fails(tmp_path, monkeypatch):
    command = ["blocks", "fusion", "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    monkeypatch.setitem(gpu.PARTS, "fusion", gpu.Part("no time", 0, gpu.fusion))
    assert gpu.main(command) == 1
    page = (tmp_path / "gpu.md").read_text()
    assert "| both members |" in page and "Not measured: it did not end within 0 s." in page


def test_wheels_of_a_folder_are_unpacked_with_nothing_downloaded(tmp_path):
    about = "thing-1.0.dist-info/"
    with zipfile.ZipFile(tmp_path / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing.py", "VALUE = 7")
        wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(about + "RECORD", "")
    gpu.unpack(tmp_path, tmp_path / "site")
    assert (tmp_path / "site/thing.py").read_text() == "VALUE = 7"


@pytest.mark.parametrize(
    "asked", [[], ["--device", "cpu"], ["sae"], ["--device", "cpu", "--tiny", "--wheels", "nowhere"]]
)
def test_without_a_gpu_one_sentence_is_said_and_nothing_written(tmp_path, capsys, asked):
    if gpu.device_problem("cuda", tiny=False) is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit) as found:
        gpu.main([*asked, "--out", str(tmp_path)])
    assert found.value.code == 2 and not list(tmp_path.iterdir())
    assert "error: " in capsys.readouterr().err.splitlines()[-1]
