"""Networks as MLflow models: exported by torch, so that whoever loads one needs neither Amalgam nor pickle.

A model takes uint8 pixels; its preprocessing is part of it, and its metadata name the classes.
"""

import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from amalgam.pipeline.console import first_line
from amalgam.pipeline.store.artifact import Record, read_curves
from amalgam.pipeline.store.checkpoints import PICTURES, load_model, read_pictures, read_spec
from amalgam.pipeline.store.clip_checkpoints import CLASSIFIER, load_classifier, read_about
from amalgam.pipeline.store.programs import EXAMPLES
from amalgam.pipeline.tracking.client import RunsInStore
from amalgam.pipeline.tracking.run_record import ALIAS, NETWORKS, REGISTER, RunRecord
from amalgam.pipeline.tracking.store import Store
from amalgam.pipeline.tracking.view import Link, milliseconds, step_metrics
from amalgam.pipeline.tracking.view import params as as_params
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.from_pixels import FromPixels

NAME = "model"
"""What the model of a run is called in it: `runs:/RUN/model`."""


@dataclass(frozen=True)
class Exportable:
    """A network, the shape of its pictures and what its outputs are called."""

    network: FromPixels
    shape: tuple[int, int, int]
    """Channels, height, width."""
    class_names: tuple[str, ...]


def exportable(folder: Path) -> Exportable:
    """The network of a checkpoint or of a classifier. Raises ValueError if the folder holds neither."""
    if (folder / CLASSIFIER).is_file():
        about = read_about(folder)
        how = build_clip(about.clip, filled=False).preprocessing
        served = FromPixels(load_classifier(folder), how.mean, how.std)
        return Exportable(served.eval(), (len(how.mean), *how.size), about.class_names)
    pictures, network = read_pictures(folder), load_model(folder)
    names = getattr(network, "class_names", pictures.class_names)
    return Exportable(FromPixels(network, pictures.mean, pictures.std).eval(), read_spec(folder).in_shape, names)


def save_model(one: Exportable, folder: Path, metadata: Mapping[str, Any], model: Model | None = None) -> None:
    """Write an MLflow model into a new folder: `mlflow.pytorch` and `mlflow.pyfunc` load it, `mlflow models serve` too.

    Raises an exception of torch's for a network that cannot be exported.
    """
    generator = torch.Generator().manual_seed(0)
    example = torch.randint(0, 256, (EXAMPLES, *one.shape), dtype=torch.uint8, generator=generator)
    pixels = TensorSpec(np.dtype(np.uint8), (-1, *one.shape))
    logits = TensorSpec(np.dtype(np.float32), (-1, len(one.class_names)))
    flavour = _pytorch()
    flavour.save_model(
        one.network,
        str(folder),
        mlflow_model=model,
        signature=ModelSignature(Schema([pixels]), Schema([logits])),
        input_example=example.numpy(),
        pip_requirements=flavour.get_default_pip_requirements(),  # not found out: that takes a process
        metadata={"class_names": list(one.class_names), "input": "uint8 pixels", "output": "logits", **metadata},
        serialization_format="pt2",
    )


@dataclass(frozen=True)
class StepNetwork:
    """The network of a step: its record, where it lies, and the run that shows it."""

    record: Record
    folder: Path
    link: Link


def log_networks(client: MlflowClient, run: RunRecord, networks: Sequence[StepNetwork]) -> None:
    """Show the networks that the run built as models, and register the best of all if the run says so."""
    log_models(client, [one for one in networks if one.record.fingerprint in run.built])
    made = [one for one in networks if one.record.name in NETWORKS]
    if made and (name := run.tags.get(REGISTER)):
        chosen = best(made)
        log_models(client, [chosen])
        register(client, chosen.link, name, run.tags.get(ALIAS))


def log_models(client: MlflowClient, networks: Iterable[StepNetwork]) -> None:
    """Add to the run of each of these steps its network as a model, unless it has one.

    A network that torch cannot export leaves a tag that says so.
    """
    for one in networks:
        if model_of(client, one.link.run_id):
            continue
        facts = {"step": one.record.name, "fingerprint": one.record.fingerprint}
        try:
            every = step_metrics(one.record, read_curves(one.folder))
            points = [point for point in every if point.key in one.record.metrics]
            if not one.record.files.keys() & {PICTURES, CLASSIFIER}:
                raise ValueError("it is not known how its pictures are prepared, or tasks prepare them differently")
            log_model(client, one.link, exportable(one.folder), facts, points)
        except MlflowException:
            raise
        except Exception as error:  # torch.export raises whatever the traced code and its own guards raise
            client.set_tag(one.link.run_id, "model", f"cannot be exported: {first_line(error)}"[:500])


def log_model(
    client: MlflowClient, link: Link, one: Exportable, metadata: Mapping[str, Any], points: Iterable[Metric]
) -> str:
    """Add the network to a run as its model, with these points, which the run has already; the model's id."""
    with tempfile.TemporaryDirectory() as place:
        folder, about = Path(place, NAME), Model(run_id=link.run_id)
        save_model(one, folder, metadata, about)
        tags = {name: str(value) for name, value in metadata.items()}
        logged = client.create_logged_model(link.experiment_id, NAME, source_run_id=link.run_id, tags=tags)
        about.artifact_path, about.model_id = logged.artifact_location, logged.model_id
        about.save(str(folder / "MLmodel"))
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(link.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    # At the time and step that they have in the run: the store keeps equal points once.
    shared = [Metric(p.key, p.value, p.timestamp, p.step, model_id=logged.model_id) for p in points]
    client.log_batch(link.run_id, shared)
    return str(logged.model_id)


def register_folder(
    store: Store,
    experiment: str,
    folder: Path,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    name: str,
    alias: str | None,
) -> str:
    """Show the network of a folder as a finished run of an experiment, and register its model; the version."""
    runs, started = RunsInStore(store), time.time()
    title = folder.absolute().name
    tags = {"folder": str(folder.absolute())}
    run = runs.created(runs.experiment(experiment), started, tags, "folder", title)
    link = Link(title, title, run.info.experiment_id, run.info.run_id)
    points = [
        Metric(f"test/{key}", float(value), milliseconds(started), 0)
        for key, value in metrics.items()
        if isinstance(value, (int, float))
    ]
    runs.log_batches(link.run_id, as_params(params), points, {})
    log_model(runs.client, link, exportable(folder), {"step": experiment}, points)
    runs.client.set_terminated(link.run_id)
    return register(runs.client, link, name, alias)


def model_of(client: MlflowClient, run_id: str) -> str | None:
    """Id of the model that a run has."""
    outputs = client.get_run(run_id).outputs
    return str(outputs.model_outputs[0].model_id) if outputs and outputs.model_outputs else None


def best(networks: Sequence[StepNetwork]) -> StepNetwork:
    """The network of highest accuracy: on validation images where all have it, else on the test split."""
    found = [_validation(one.folder) for one in networks]
    if None in found:
        found = [one.record.numbers.get("test/accuracy") for one in networks]
    return max(zip(found, networks, strict=True), key=lambda pair: pair[0] or 0)[1]


def register(client: MlflowClient, link: Link, name: str, alias: str | None) -> str:
    """Make the model of a run the next version of a registered one, unless it is one; give it the alias. Its version.

    Raises ValueError if the run has no model.
    """
    model_id = model_of(client, link.run_id)
    if model_id is None:
        raise ValueError(f"{link.title} has no model that could be registered as {name!r}: its run says why")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = [one.version for one in client.search_model_versions(f"name = '{name}'") if one.run_id == link.run_id]
    # Not `models:/ID`: MLflow would look for it in the store that the environment names.
    source = client.get_logged_model(model_id).artifact_location
    version = known[0] if known else client.create_model_version(name, source, link.run_id, model_id=model_id).version
    if alias:
        client.set_registered_model_alias(name, alias, version)
    return str(version)


def _validation(folder: Path) -> float | None:
    return max((point.value for point in read_curves(folder) if point.metric == "validation/accuracy"), default=None)


def _pytorch() -> ModuleType:
    """MLflow's module for torch, whose import warns of type hints of MLflow's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pytorch
    return mlflow.pytorch
