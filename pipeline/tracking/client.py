"""Calls to MLflow's store that are safe to repeat; only explicit run ids are used, in the driver alone."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from sqlalchemy.orm import Session

from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.tracking import view
from amalgam.pipeline.tracking.database import PATIENCE, prepared, without_trace
from amalgam.pipeline.tracking.store import Store

BATCH = 1000  # most metrics, params and tags together that MLflow takes in one call
PARAMS_PER_BATCH = 100  # most params among them
AGAIN = 1.0  # seconds before a call is repeated whose answer was lost
Found = TypeVar("Found")
OLDEST_FIRST = ["attributes.start_time ASC"]


class RunsInStore:
    """The runs that a store has, found by their tags or made."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's own client; a password goes to it by the environment, where it enters no message."""
        prepared(self._store)
        if self._store.is_server and self._store.credentials:
            os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = self._store.credentials
            return MlflowClient(self._store.address)
        # Under an address that nobody else in this process uses, MLflow makes a store that nobody else uses either.
        ours = f"{self._store.uri}?timeout={PATIENCE}" if self._store.root else self._store.uri
        client = MlflowClient(ours)
        client.search_experiments(max_results=1)  # opens the database
        without_trace(self._store)
        return client

    @contextmanager
    def one_transaction(self) -> Iterator[None]:
        """Write what the block logs in one transaction, all of it or nothing; a server takes each call as it comes.

        MLflow opens four sessions for a run and flushes the disk after each: seven tenths of the time of a step. It has
        no public way to share one, so the maker of its sessions is exchanged, here and nowhere else; and what it asks
        anew for each run, the experiment, is asked once.
        """
        store: Any = self.client._tracking_client.store
        if not issubclass(type(store), SqlAlchemyStore):
            yield
            return
        makes_sessions, get_experiment = store.ManagedSessionMaker, store.get_experiment
        with _Shared(store.engine) as session:

            @contextmanager
            def shared(read_only: bool = True) -> Iterator[Session]:
                yield session
                session.flush()

            store.ManagedSessionMaker, store.get_experiment = shared, cache(get_experiment)
            try:
                yield
                session.end()
            finally:
                store.ManagedSessionMaker, store.get_experiment = makes_sessions, get_experiment

    def experiment(self, name: str) -> str:
        """Id of the experiment, made if there is none; two drivers may both try to make it."""
        if found := self.client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            made = self.client.create_experiment(name, self._store.artifacts, tags=view.experiment_tags())
            self.client.set_experiment_tag(made, MLFLOW_RUN_NOTE, view.experiment_note(made))
            return str(made)
        except MlflowException:
            if found := self.client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    def oldest(self, experiments: list[str], tag: str, value: str) -> Run | None:
        """The first run with that tag."""
        found = self.client.search_runs(experiments, f"tags.{tag} = '{value}'", max_results=1, order_by=OLDEST_FIRST)
        return found[0] if found else None

    def of_steps(self, records: Sequence[Record]) -> dict[str, Run]:
        """The run of each of these steps that the store shows, by fingerprint: a few pages, not a call for each.

        A run starts when its step did, so that no page is read of other times.
        """
        starts, found = {record.fingerprint: view.milliseconds(record.started) for record in records}, dict[str, Run]()
        between = f"attributes.start_time >= {min(starts.values())} AND attributes.start_time <= {max(starts.values())}"
        for run in self.every(between):
            key = run.data.tags.get(view.FINGERPRINT)
            if key in starts and run.info.start_time == starts[key]:
                found.setdefault(key, run)
                if len(found) == len(starts):
                    break
        return found

    def every(self, wanted: str = "") -> Iterator[Run]:
        """The runs of all experiments that MLflow's filter lets through, oldest first."""
        experiments = [experiment.experiment_id for experiment in pages(self.client.search_experiments)]
        return pages(self.client.search_runs, experiments, wanted, order_by=OLDEST_FIRST)

    def created(self, experiment_id: str, started: float, tags: Mapping[str, str], identity: str, name: str) -> Run:
        """A new run. `identity` names the tag that no other run has: if an answer is lost, it is looked for first."""
        try:
            return self.client.create_run(experiment_id, view.milliseconds(started), dict(tags), run_name=name)
        except Exception:
            time.sleep(AGAIN)
            if made := self.oldest([experiment_id], identity, tags[identity]):
                return made
            return self.client.create_run(experiment_id, view.milliseconds(started), dict(tags), run_name=name)

    def log_batches(self, run_id: str, params: list[Param], metrics: list[Metric], tags: Mapping[str, str]) -> None:
        """Log all of these, in as many calls as MLflow's limits make it."""
        marks = [RunTag(name, value) for name, value in tags.items()]
        while params or metrics or marks:
            first, params = params[:PARAMS_PER_BATCH], params[PARAMS_PER_BATCH:]
            room = BATCH - len(first) - len(marks)
            self.client.log_batch(run_id, metrics[:room], first, marks)
            metrics, marks = metrics[room:], []


def pages(search: Callable[..., PagedList[Found]], *arguments: Any, **named: Any) -> Iterator[Found]:
    """All that a search of MLflow's finds, however many answers it takes."""
    token = None
    while True:
        page = search(*arguments, **named, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


class _Shared(Session):
    """A session of several calls, each of which would commit: only its end does."""

    def commit(self) -> None:
        """Leave it to the end."""
        self.flush()

    def end(self) -> None:
        """Commit all of it."""
        super().commit()
