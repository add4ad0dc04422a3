"""Files of steps as artifacts of MLflow runs: under a root of ours they are the same files under a second name."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from amalgam.pipeline.store.artifact import content_kept
from amalgam.pipeline.tracking.store import Store


def keep(run: Run, store: Store, folder: Path, files: Sequence[Path]) -> None:
    """Make files under `folder` artifacts of the run, at the same places under it.

    In the store of a root nothing is copied: a checkpoint has a second name there, and no second place on the disk.
    """
    if store.root:
        artifacts = Path(url2pathname(urlsplit(run.info.artifact_uri).path))
        for file in files:
            _link(file, artifacts / file.relative_to(folder))
        return
    # Not MlflowClient.log_artifact: it asks for the run once more.
    repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=store.address)
    for file in files:
        place = file.parent.relative_to(folder).as_posix()
        repository.log_artifact(str(file), None if place == "." else place)


def _link(file: Path, place: Path) -> None:
    """Give a file a second name; where the file system has none, a copy. What an earlier attempt left is replaced."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    try:
        with content_kept(file):
            os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
