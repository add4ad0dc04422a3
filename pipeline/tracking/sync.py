"""MLflow shows what the records under a root say: a parent run per run of an experiment, a child per step it built.

Files come first. Every call is a projection of records that lie on disk, and doing it again changes nothing; so
syncing after a server was away, or filling an empty store, is the same call. Only `MlflowClient` with explicit run
ids is used, in the driver alone.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from amalgam.pipeline.tracking.store import SETTINGS, Store

for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)  # mlflow reads them when it is imported

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from amalgam.pipeline.store.artifact import CURVES, RECORD, Record, is_complete, read_curves, read_record  # noqa: E402
from amalgam.pipeline.store.record_text import parents, titles  # noqa: E402
from amalgam.pipeline.tracking import view  # noqa: E402
from amalgam.pipeline.tracking.run_record import RunRecord, read_runs  # noqa: E402

BATCH = 1000  # most metrics, params and tags together that MLflow takes in one call
PARAMS_PER_BATCH = 100  # most params among them


@dataclass(frozen=True)
class Tracked:
    """What became of showing one run in MLflow."""

    run: RunRecord
    store: Store
    run_id: str | None = None
    url: str | None = None
    problem: str | None = None
    """Why the store does not show it, in a few words; the records stay."""
    is_unreadable: bool = False
    """Whether the trouble is with the run's records, not with the store, which a later sync may find well again."""

    @property
    def line(self) -> str:
        """One line for the user."""
        if self.is_unreadable:
            return f"MLflow cannot show run {self.run.key}: {self.problem}"
        if self.problem:
            return (
                f"MLflow at {self.store.uri} did not take the run ({self.problem}); "
                "its records are kept, and `amalgam sync` logs them when MLflow is back"
            )
        return f"MLflow run {self.run.key}: {self.url or self.store.uri}"


def sync(root: Path, store: Store) -> list[Tracked]:
    """Log every run under `root` that the store does not show yet, oldest first; stops at trouble with the store."""
    tracker, done = Tracker(root, store), list[Tracked]()
    for run in read_runs(root):
        done.append(tracker.track(run))
        if done[-1].problem and not done[-1].is_unreadable:
            break
    return done


class Tracker:
    """Shows the runs under one root in one store; remembers which steps the store is known to show."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root, self.store = root.absolute(), store
        self._links: dict[str, view.Link] = {}

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient(self.store.uri)

    def track(self, run: RunRecord) -> Tracked:
        """Log the run as `log` does, but give trouble as a sentence: neither a run nor those after it fail for it."""
        if problem := self.store.problem():
            return Tracked(run, self.store, problem=problem)
        try:
            parent = self.log(run)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            return Tracked(run, self.store, problem=(str(error).strip() or type(error).__name__).splitlines()[0][:200])
        except ValueError as error:
            problem = f"{error}; remove {run.path(self.root)} to leave the run out"
            return Tracked(run, self.store, problem=problem, is_unreadable=True)
        url = self.store.url(parent.info.experiment_id, parent.info.run_id)
        return Tracked(run, self.store, parent.info.run_id, url)

    def log(self, run: RunRecord) -> Run:
        """The parent run, made or completed, with a child for every step the store does not show yet.

        A run may be logged while it goes on, again and again: what is there already is left alone. Raises ValueError
        if a step that the run names was removed or is damaged.
        """
        experiment_id = self._experiment(run.experiment)
        found = self._oldest([experiment_id], view.RUN_KEY, run.key)
        if found and found.info.status in ("FINISHED", "FAILED"):
            return found
        records = {key: read_record(self._folder(key)) for key in [*run.cached, *run.built]}
        parent = found or self._parent(run, experiment_id)
        names = titles(list(records.values()))
        experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        for fingerprint, record in records.items():
            if fingerprint not in self._links:
                self._links[fingerprint] = self._show(record, names[fingerprint], parent, experiments)
        if run.seconds is not None:
            self._rename({key: names[key] for key in run.built})
            self._finish(run, records, parent)
        return parent

    def _parent(self, run: RunRecord, experiment_id: str) -> Run:
        tags = {view.RUN_KEY: run.key}
        return self._client.create_run(experiment_id, _milliseconds(run.started), tags, run_name=run.title)

    def _experiment(self, name: str) -> str:
        """Id of the experiment, made if there is none; two drivers may both try to make it."""
        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return self._client.create_experiment(name, self.store.artifacts, tags=view.EXPERIMENT_TAGS)
        except MlflowException:
            if found := self._client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    def _show(self, record: Record, title: str, parent: Run, experiments: list[str]) -> view.Link:
        """Link to the run that shows a step: one the store has, perhaps under another parent, or a new child."""
        child = self._oldest(experiments, view.FINGERPRINT, record.fingerprint) or self._child(record, title, parent)
        if child.info.status != "FINISHED":
            self._fill(child.info.run_id, record)
        return view.Link(child.info.run_name or title, record.key, child.info.experiment_id, child.info.run_id)

    def _rename(self, names: Mapping[str, str]) -> None:
        """Give the runs of steps these names: one that was shown before others of its kind was named by its kind."""
        for fingerprint, name in names.items():
            link = self._links[fingerprint]
            if link.title != name:
                self._client.update_run(link.run_id, name=name)
                self._links[fingerprint] = replace(link, title=name)

    def _oldest(self, experiments: list[str], tag: str, value: str) -> Run | None:
        order = ["attributes.start_time ASC"]
        found = self._client.search_runs(experiments, f"tags.{tag} = '{value}'", max_results=1, order_by=order)
        return found[0] if found else None

    def _child(self, record: Record, title: str, parent: Run) -> Run:
        tags = {MLFLOW_PARENT_RUN_ID: parent.info.run_id, view.FINGERPRINT: record.fingerprint}
        return self._client.create_run(parent.info.experiment_id, _milliseconds(record.started), tags, run_name=title)

    def _fill(self, run_id: str, record: Record) -> None:
        """Log all of a record. What an attempt that broke off logged is the same, and MLflow keeps it once."""
        folder = self.root / record.key
        inputs = parents(record)
        staged, read = _staged(folder), [rows for key in inputs for rows in _staged(self._folder(key))]
        note = view.step_note(record, folder, [self._links[key] for key in inputs if key in self._links])
        tags = view.step_tags(record, self._data_fingerprints(record), note)
        self._log_batches(run_id, view.params(record.config), view.step_metrics(record, read_curves(folder)), tags)
        self._client.log_inputs(
            run_id, [view.dataset(r, "staged") for r in staged] + [view.dataset(r, "read") for r in read]
        )
        in_place = {rows.file for rows in staged} | {folder / CURVES}
        files = [folder / file for file in [*record.files, RECORD]]
        self._log_files(run_id, folder, [file for file in files if file not in in_place])
        self._client.set_terminated(run_id, "FINISHED", _milliseconds(record.started + record.seconds))

    def _finish(self, run: RunRecord, records: Mapping[str, Record], parent: Run) -> None:
        """Log what the run found: its targets' summaries, tables and pictures, and links to all of its steps."""
        run_id = parent.info.run_id
        targets = [records[key] for key in run.targets if key in records]
        files = [self.root / record.key / file for record in targets for file in record.files]
        shown = [file for file in files if view.is_read_by_people(file)]
        built, cached = [[self._links[key] for key in keys] for keys in (run.built, run.cached)]
        tags = view.run_tags(run, list(records.values()), cached, view.run_note(run, run_id, built, cached, shown))
        self._log_batches(run_id, view.params(run.config), view.run_metrics(run, targets), tags)
        for file in shown:
            self._client.log_artifact(run_id, str(file))
        status = "FAILED" if run.failures else "FINISHED"
        self._client.set_terminated(run_id, status, _milliseconds(run.started + (run.seconds or 0)))

    def _log_batches(self, run_id: str, params: list[Param], metrics: list[Metric], tags: list[RunTag]) -> None:
        while params or metrics or tags:
            first, params = params[:PARAMS_PER_BATCH], params[PARAMS_PER_BATCH:]
            room = BATCH - len(first) - len(tags)
            self._client.log_batch(run_id, metrics[:room], first, tags)
            metrics, tags = metrics[room:], []

    def _log_files(self, run_id: str, folder: Path, files: Sequence[Path]) -> None:
        for file in files:
            place = file.parent.relative_to(folder).as_posix()
            self._client.log_artifact(run_id, str(file), None if place == "." else place)

    def _data_fingerprints(self, record: Record) -> list[str]:
        """Of the data a step or its ancestors read, as those that read it say."""
        if own := record.metrics.get(view.DATA_FINGERPRINT):
            return [str(own)]
        folders = [self._folder(key) for key in parents(record)]
        above = [self._data_fingerprints(read_record(folder)) for folder in folders if is_complete(folder)]
        return sorted(set(chain.from_iterable(above)))

    def _folder(self, fingerprint: str) -> Path:
        """Where a step lies under the root; a folder that is not there if it was removed."""
        return next(self.root.glob(f"*-{fingerprint}"), self.root / fingerprint)


def _staged(folder: Path) -> list[view.StagedRows]:
    """The files of activation rows in a step's folder."""
    return [staged for file in sorted(folder.rglob("*.parquet")) if (staged := view.staged_rows(file))]


def _milliseconds(seconds: float) -> int:
    return int(1000 * seconds)
