"""Networks in MLflow: whoever loads one, or sends a picture to its server, gets what the network gives."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.engine.execute import Event, Local, run
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.checkpoints import load_model, save_model, save_pictures
from amalgam.pipeline.store.clip_checkpoints import ClassifierInfo, key_of, save_classifier
from amalgam.pipeline.tracking.database import prepared
from amalgam.pipeline.tracking.run_record import RunRecord, read_runs
from amalgam.pipeline.tracking.store import SETTINGS, Store, plainly, store_of
from amalgam.pipeline.tracking.sync import Tracker
from amalgam.tasks.clip.zero_shot import Classifier, zero_shot_head
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.data.loading import normalise
from amalgam.tasks.models import build
from amalgam.tasks.models.spec import ModelSpec
from tests.pipeline.tracking.test_tracking import free_port
from tests.tasks.clip.worlds import CLASSES, spec, tiny_clip

DATA = DataSpec(name="digits", mean=0.3, std=0.4)
FUSED = ("--interpolation", "bilinear", "--alpha", "0.4")
HERE = Path(__file__).parents[3]


def network(config: Mapping[str, float], inputs: object, work: Workspace) -> dict[str, float]:
    spec = ModelSpec(name="mlp", num_classes=10, in_shape=(1, 8, 8), options={"widths": [5]})
    save_model(build(spec, seed=int(config["seed"])), spec, work.out)
    save_pictures(load(DATA, "test"), work.out)
    return {"test/accuracy": config["accuracy"]}


def unreadable(config: object, inputs: object, work: Workspace) -> dict[str, float]:
    (work.out / "config.json").write_text("{}")
    return {"test/accuracy": 0.99}


def total(config: object, inputs: object, work: Workspace) -> dict[str, float]:
    return {"test/accuracy": 0.5}


def fused(seed: int, accuracy: float) -> Step:
    return Step("fused", network, {"seed": seed, "accuracy": accuracy})


def several() -> Step:
    return Step("report", total, inputs={"networks": (fused(0, 0.6), fused(1, 0.9), fused(2, 0.7))})


def logged(target: Step, root: Path, **tags: str) -> None:
    events = list[Event]()
    run([target], root, Local(), events.append)
    begun = RunRecord.begun("models", {}, [target]).model_copy(update={"tags": tags})
    tracked = Tracker(root, store_of(root)).track(reduce(RunRecord.after, events, begun).ended())
    assert tracked.problem is None, tracked.problem


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    logged(several(), root, register="digits", alias="champion")
    return root


@pytest.fixture
def client(root: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """With its addresses in the environment, as users have them, and no pickle allowed."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_of(root).uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    return MlflowClient(store_of(root).uri)


@pytest.fixture
def pixels() -> torch.Tensor:
    return load(DATA, "test").pixels[:7]


@pytest.mark.slow
def test_a_model_gives_what_its_network_gives_of_pixels(root, client, pixels):
    import mlflow.pyfunc
    import mlflow.pytorch

    for step in (fused(seed, accuracy) for seed, accuracy in ((0, 0.6), (2, 0.7))):
        with torch.no_grad():
            expected = load_model(step.path(root))(normalise(pixels, 0.3, 0.4))
        found = next(one for one in runs_of(client) if one.data.tags.get("fingerprint") == step.fingerprint)
        address = f"runs:/{found.info.run_id}/model"
        with torch.no_grad():
            torch.testing.assert_close(mlflow.pytorch.load_model(address)(pixels), expected)
        model = mlflow.pyfunc.load_model(address)
        np.testing.assert_allclose(model.predict(pixels[:1].numpy()), expected[:1].numpy(), rtol=1e-5, atol=1e-6)
        assert model.metadata.metadata["class_names"] == [str(digit) for digit in range(10)]
        assert model.metadata.get_input_schema().inputs[0].shape == (-1, 1, 8, 8)
        assert np.asarray(model.input_example).shape == (2, 1, 8, 8)


def runs_of(client: MlflowClient):
    return client.search_runs([one.experiment_id for one in client.search_experiments()])


def test_the_best_network_is_registered_once_and_has_the_alias(root, client):
    logged(several(), root, register="digits", alias="champion")
    version = client.get_model_version_by_alias("digits", "champion")
    assert [one.version for one in client.search_model_versions("name = 'digits'")] == [version.version]
    assert client.get_run(version.run_id).data.metrics["test/accuracy"] == 0.9
    logged(fused(3, 0.1), root, register="digits")
    assert len(client.search_model_versions("name = 'digits'")) == 2
    assert client.get_model_version_by_alias("digits", "champion").version == version.version


def test_a_metric_of_a_model_is_in_the_history_of_its_run_once(root, client):
    with_models = [one for one in runs_of(client) if one.outputs and one.outputs.model_outputs]
    assert with_models
    for one in with_models:
        assert len(client.get_metric_history(one.info.run_id, "test/accuracy")) == 1
        model = client.get_logged_model(one.outputs.model_outputs[0].model_id)
        assert one.data.metrics["test/accuracy"] in [m.value for m in model.metrics if m.key == "test/accuracy"]


@pytest.mark.slow
def test_a_classifier_of_clip_is_a_model_of_its_classes(tmp_path, monkeypatch):
    import mlflow.pytorch

    from amalgam.pipeline.tracking.models import exportable
    from amalgam.pipeline.tracking.models import save_model as save_mlflow_model

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    clip, templates = tiny_clip(), ("a photo of the digit {}",)
    classifier = Classifier(clip.image_tower, zero_shot_head(clip, CLASSES, templates)).eval()
    about = ClassifierInfo(clip=spec(), class_names=CLASSES, templates=templates, backbone=key_of(clip))
    save_classifier(classifier, about, tmp_path)
    save_mlflow_model(exportable(tmp_path), tmp_path / "model", {})
    how = clip.preprocessing
    for count in (1, 3):
        pixels = torch.randint(0, 256, (count, len(how.mean), *how.size), dtype=torch.uint8)
        with torch.no_grad():
            found = mlflow.pytorch.load_model(str(tmp_path / "model"))(pixels)
            torch.testing.assert_close(found, classifier(normalise(pixels, how.mean, how.std)))


def test_a_checkpoint_is_one_file_with_two_names(root, client):
    step = fused(1, 0.9)
    found = next(one for one in runs_of(client) if one.data.tags.get("fingerprint") == step.fingerprint)
    artifact = Path(url2pathname(urlsplit(found.info.artifact_uri).path)) / "model.safetensors"
    assert artifact.samefile(step.path(root) / "model.safetensors")


def test_a_network_that_cannot_be_exported_costs_a_tag_and_no_run(tmp_path, root):
    shutil.copy(root / "mlflow.db", tmp_path)
    step = Step("fused", unreadable)
    logged(step, tmp_path)
    client = MlflowClient(store_of(tmp_path).uri)
    found = next(one for one in runs_of(client) if one.data.tags.get("fingerprint") == step.fingerprint)
    assert found.info.status == "FINISHED" and "cannot be exported" in found.data.tags["model"]


@pytest.mark.parametrize("name", ["runs now", "100% of a root?", "%41#1 %20?"])
def test_registered_models_are_found_after_the_root_was_moved(root, tmp_path, monkeypatch, pixels, name):
    """Also by a process that never saw this one, as a user's is: the name means the same to all that read it."""
    import mlflow.pytorch

    there = tmp_path / name
    shutil.copytree(root, there)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", prepared(store_of(there)).uri)
    moved = MlflowClient()
    version = moved.get_model_version_by_alias("digits", "champion")
    models = moved.search_logged_models([one.experiment_id for one in moved.search_experiments()])
    assert len(models) >= 3
    assert {one.artifact_location.partition("/mlartifacts")[0] for one in models} == {plainly(there).as_uri()}
    assert version.source.startswith(plainly(there).as_uri())
    mlflow.pytorch.load_model("models:/digits@champion")(pixels)


def test_what_fuse_and_merge_write_is_registered(root, client, tmp_path, pixels, capsys, monkeypatch):
    import mlflow.pytorch

    members = [str(fused(seed, accuracy).path(root)) for seed, accuracy in ((0, 0.6), (1, 0.9))]
    where = ["--root", str(root), "--alias", "champion"]
    with pytest.raises(SystemExit) as ended:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        data = ["--data", "digits", "--mean", "0.3", "--std", "0.4", "--image-size", "8", *FUSED]
        main(["fuse", *members, *data, "--out", str(tmp_path / "fused"), "--register", "fused-digits", *where])
    assert ended.value.code == 0 and "models:/fused-digits/1" in capsys.readouterr().out
    version = client.get_model_version_by_alias("fused-digits", "champion")
    assert "test/accuracy" in client.get_run(version.run_id).data.metrics
    with pytest.raises(SystemExit) as ended:
        how = ["--no-base", "--method", "Average", "--out", str(tmp_path / "merged")]
        main(["merge", *members, *how, "--register", "merged-digits", *where])
    assert ended.value.code == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_of(root).uri)
    for name in ("fused", "merged"):
        with torch.no_grad():
            found = mlflow.pytorch.load_model(f"models:/{name}-digits@champion")(pixels)
            torch.testing.assert_close(found, load_model(tmp_path / name)(normalise(pixels, 0.3, 0.4)))


@pytest.mark.parametrize(
    "flags", [("--alias", "champion"), ("--register", "a/b"), ("--register", "digits", "--alias", "v1")]
)
def test_names_that_the_registry_cannot_have_are_refused_before_anything_runs(tmp_path, flags, capsys):
    example = f"{HERE / 'tests/pipeline/example.py'}:walks"
    with pytest.raises(SystemExit) as ended:
        main(["run", example, "--local", "--root", str(tmp_path / "runs"), *flags])
    assert ended.value.code == 2 and not (tmp_path / "runs").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_an_experiment_without_networks_registers_none(tmp_path, capsys):
    example = f"{HERE / 'tests/pipeline/example.py'}:walks"
    with pytest.raises(SystemExit) as ended:
        main(["run", example, "--local", "--root", str(tmp_path), "--register", "digits"])
    assert ended.value.code == 2 and "--register digits" in capsys.readouterr().err
    assert read_runs(tmp_path) == []


@pytest.mark.slow
def test_a_server_of_the_registered_model_answers_a_picture(root, client, pixels):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/digits@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    quiet = subprocess.DEVNULL
    activated = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # mlflow looks for uvicorn
    environment = os.environ | SETTINGS | activated
    server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, process_group=0)
    try:
        ends = time.monotonic() + 240
        while Store(address).problem():
            assert server.poll() is None and time.monotonic() < ends, "the server does not answer"
            time.sleep(0.2)
        body = json.dumps({"inputs": pixels[:2].tolist()}).encode()
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = torch.tensor(json.load(answer)["predictions"])
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
    with torch.no_grad():
        expected = load_model(fused(1, 0.9).path(root))(normalise(pixels[:2], 0.3, 0.4))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
