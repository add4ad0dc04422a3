"""MLflow shows what the records under a root say: a parent run per run of an experiment, a child per step it built.

Files come first. Every call is a projection of records that lie on disk, and doing it again changes nothing; so
syncing after a server was away, or filling an empty store, is the same call. Only `MlflowClient` with explicit run
ids is used, in the driver alone.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import Timeout
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from amalgam.pipeline.console import first_line
from amalgam.pipeline.store.artifact import CURVES, RECORD, Point, Record, read_curves
from amalgam.pipeline.store.record_text import parents, titles
from amalgam.pipeline.store.storage import storage_of
from amalgam.pipeline.tracking import view
from amalgam.pipeline.tracking.client import RunsInStore
from amalgam.pipeline.tracking.database import tracking_lock
from amalgam.pipeline.tracking.files import keep
from amalgam.pipeline.tracking.run_record import RunRecord, bury_dead, read_runs
from amalgam.pipeline.tracking.store import Store

TOGETHER = 50  # steps in one transaction: others wait for its end, a second at most

ENDED = ("FINISHED", "FAILED", "KILLED")


class UnreadableStep(ValueError):
    """A step that a run names was removed or is damaged."""


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
                f"MLflow at {self.store.address} did not take the run ({self.problem}); "
                "its records are kept, and `amalgam sync` logs them when MLflow is back"
            )
        return f"MLflow run {self.run.key}: {self.url or self.store.address}"


def sync(root: Path, store: Store) -> list[Tracked]:
    """Log every run under `root` that the store does not show yet, oldest first; stops at trouble with the store.

    Runs whose driver died are marked as killed first.
    """
    bury_dead(root)
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
        self._keys: dict[str, str] = {}
        self._data: dict[str, list[str]] = {}
        self._runs = RunsInStore(store)
        self._storage = storage_of(self.root)

    @cached_property
    def _client(self) -> MlflowClient:
        return self._runs.client

    def track(self, run: RunRecord) -> Tracked:
        """Log the run as `log` does, but give any trouble as a sentence: no run fails for what MLflow does."""
        if problem := self.store.problem():
            return Tracked(run, self.store, problem=problem)
        try:
            with tracking_lock(self.root):
                parent = self.log(run)
        except UnreadableStep as error:
            problem = f"{error}; remove {run.path(self.root)} to leave the run out"
            return Tracked(run, self.store, problem=problem, is_unreadable=True)
        except Timeout:
            return Tracked(run, self.store, problem="another driver is logging to it")
        except Exception as error:  # of MLflow, SQLAlchemy, requests, a database's module, the file system ...
            return Tracked(run, self.store, problem=self.store.without_secrets(first_line(error)[:200]))
        url = self.store.url(parent.info.experiment_id, parent.info.run_id)
        return Tracked(run, self.store, parent.info.run_id, url)

    def log(self, run: RunRecord) -> Run:
        """The parent run, made or completed, with a child for every step the store does not show yet.

        A run may be logged while it goes on, again and again: what is there already is left alone. Raises
        UnreadableStep if a step that the run names was removed or is damaged.
        """
        experiment_id = self._runs.experiment(run.experiment)
        found = self._runs.oldest([experiment_id], view.RUN_KEY, run.key)
        if found and found.info.status in ENDED:
            return found
        records = {key: self._record(key) for key in [*run.cached, *run.built]}
        parent = found or self._runs.created(
            experiment_id, run.started, {view.RUN_KEY: run.key}, view.RUN_KEY, run.title
        )
        names = titles(list(records.values()))
        self._show(run, records, names, parent)
        if run.seconds is not None:
            self._log_models(run, records)
            with self._runs.one_transaction():
                self._rename({key: names[key] for key in run.built})
                self._finish(run, records, parent)
        return parent

    def _show(self, run: RunRecord, records: Mapping[str, Record], names: Mapping[str, str], parent: Run) -> None:
        """Link every step to the run that shows it: one the store has, perhaps of another parent, or a new child."""
        unknown = [record for key, record in records.items() if key not in self._links]
        shown = self._runs.of_steps(unknown) if unknown else {}
        for some in [unknown[i : i + TOGETHER] for i in range(0, len(unknown), TOGETHER)]:
            # What is half logged may be there already, and MLflow looks that up after a rollback of its own.
            begun = any(one and one.info.status != "FINISHED" for one in (shown.get(r.fingerprint) for r in some))
            try:
                with nullcontext() if begun else self._runs.one_transaction():
                    for record in some:
                        child, title = shown.get(record.fingerprint), names[record.fingerprint]
                        if child is None or child.info.status != "FINISHED":
                            child = self._logged(run, record, title, parent, child)
                        info = child.info
                        link = view.Link(info.run_name or title, record.key, info.experiment_id, info.run_id)
                        self._links[record.fingerprint] = link
            except BaseException:
                for record in some:
                    self._links.pop(record.fingerprint, None)
                raise

    def _rename(self, names: Mapping[str, str]) -> None:
        """Give the runs of steps these names: one that was shown before others of its kind was named by its kind."""
        for fingerprint, name in names.items():
            link = self._links[fingerprint]
            if link.title != name:
                self._client.update_run(link.run_id, name=name)
                self._links[fingerprint] = replace(link, title=name)

    def _logged(self, run: RunRecord, record: Record, title: str, parent: Run, begun: Run | None) -> Run:
        """The run of a step with all of its record. What an attempt that broke off logged is the same, kept once."""
        folder = self._folder(record.fingerprint)
        inputs = parents(record)
        staged, read = view.staged_in(folder), [rows for key in inputs for rows in view.staged_in(self._folder(key))]
        note = view.step_note(record, folder, [self._links[key] for key in inputs if key in self._links])
        tags = view.step_tags(run, record, self._data_fingerprints(record), note)
        tags |= {MLFLOW_PARENT_RUN_ID: parent.info.run_id}
        child = begun or self._runs.created(parent.info.experiment_id, record.started, tags, view.FINGERPRINT, title)
        run_id = child.info.run_id
        metrics = view.step_metrics(record, self._curves(record.fingerprint))
        self._runs.log_batches(run_id, view.params(record.config), metrics, tags if begun else {})
        if staged or read:
            datasets = [view.dataset(r, "staged") for r in staged] + [view.dataset(r, "read") for r in read]
            self._client.log_inputs(run_id, datasets)
        in_place = {rows.file for rows in staged} | {folder / CURVES}
        files = [folder / file for file in [*record.files, RECORD]]
        keep(child, self.store, folder, [file for file in files if file not in in_place])
        self._keep_note(run_id, note)
        self._client.set_terminated(run_id, "FINISHED", view.milliseconds(record.started + record.seconds))
        return child

    def _log_models(self, run: RunRecord, records: Mapping[str, Record]) -> None:
        """Show the networks that the run built as models, and register the best of all that it has if it says so."""
        if not (wanted := run.networks(records)):
            return
        from amalgam.pipeline.tracking.models import StepNetwork, log_networks  # here, not above: it imports torch

        networks = [StepNetwork(records[key], self._folder(key), self._links[key]) for key in wanted]
        log_networks(self._client, run, networks)

    def _finish(self, run: RunRecord, records: Mapping[str, Record], parent: Run) -> None:
        """Log what the run found: its targets' summaries, tables and pictures, and links to all of its steps."""
        run_id = parent.info.run_id
        targets = [records[key] for key in run.targets if key in records]
        files = [self._folder(record.fingerprint) / file for record in targets for file in record.files]
        shown = [file for file in files if view.is_read_by_people(file)]
        built, cached = [[self._links[key] for key in keys] for keys in (run.built, run.cached)]
        note = view.run_note(run, run_id, built, cached, shown)
        tags = view.run_tags(run, list(records.values()), cached, note)
        curves = {record.fingerprint: self._curves(record.fingerprint) for record in targets}
        self._runs.log_batches(run_id, view.params(run.config), view.run_metrics(run, records, curves), tags)
        if data := view.sources(records.values()):
            self._client.log_inputs(run_id, data)
        self._keep_note(run_id, note)
        for file in shown:
            keep(parent, self.store, file.parent, [file])
        if len(cached) > view.MOST_LINKS:
            self._client.log_text(run_id, "\n".join(link.run_id for link in cached), view.LINKS_FILE)
        self._client.set_terminated(run_id, run.status, view.milliseconds(run.started + (run.seconds or 0)))

    def _keep_note(self, run_id: str, note: str) -> None:
        """Add a note that no tag can hold as a file."""
        if view.within_limit(note) != note:
            self._client.log_text(run_id, note, view.NOTE_FILE)

    def _data_fingerprints(self, record: Record) -> list[str]:
        """Of the data a step or its ancestors read, as those that read it say."""
        if record.fingerprint not in self._data:
            own = record.metrics.get(view.DATA_FINGERPRINT)
            above = {} if own else self._storage.finished(self._key(key) for key in parents(record))
            found = [str(own)] if own else chain.from_iterable(map(self._data_fingerprints, above.values()))
            self._data[record.fingerprint] = sorted(set(found))
        return self._data[record.fingerprint]

    def _record(self, fingerprint: str) -> Record:
        return _readable(self._storage.record, self._key(fingerprint))

    def _curves(self, fingerprint: str) -> list[Point]:
        return _readable(read_curves, self._folder(fingerprint))

    def _folder(self, fingerprint: str) -> Path:
        """Where a step lies under the root; a folder that is not there if it was removed."""
        return self._storage.local(self._key(fingerprint))

    def _key(self, fingerprint: str) -> str:
        if fingerprint not in self._keys:  # one listing for all of them
            self._keys = {key.rpartition("-")[2]: key for key in self._storage.names()}
        return self._keys.get(fingerprint, fingerprint)


def _readable(read: Callable[[Any], Any], source: object) -> Any:
    try:
        return read(source)
    except ValueError as error:
        raise UnreadableStep(str(error)) from error
