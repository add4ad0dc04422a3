"""Calls to MLflow's store that are safe to repeat; only explicit run ids are used, in the driver alone."""

import os
import time
from collections.abc import Iterable, Mapping
from functools import cached_property

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from amalgam.pipeline.tracking import view
from amalgam.pipeline.tracking.database import prepared, without_trace
from amalgam.pipeline.tracking.store import Store

AGAIN = 1.0  # seconds before a call is repeated whose answer was lost
PAGE = 1000  # runs in one answer
FEW = 3  # steps that are looked up one by one
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
        client = MlflowClient(self._store.uri)
        client.search_experiments(max_results=1)  # opens the database
        without_trace(self._store)
        return client

    def experiment(self, name: str) -> str:
        """Id of the experiment, made if there is none; two drivers may both try to make it."""
        if found := self.client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return self.client.create_experiment(name, self._store.artifacts, tags=view.EXPERIMENT_TAGS)
        except MlflowException:
            if found := self.client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    def oldest(self, experiments: list[str], tag: str, value: str) -> Run | None:
        """The first run with that tag."""
        found = self.client.search_runs(experiments, f"tags.{tag} = '{value}'", max_results=1, order_by=OLDEST_FIRST)
        return found[0] if found else None

    def by_fingerprint(self, fingerprints: Iterable[str]) -> dict[str, Run]:
        """The oldest run of each of these steps that the store shows: pages of many, not a call for each."""
        wanted, found = set(fingerprints), dict[str, Run]()
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        if len(wanted) <= FEW:
            each = {key: self.oldest(experiments, view.FINGERPRINT, key) for key in wanted}
            return {key: run for key, run in each.items() if run}
        token = None
        while wanted - found.keys():
            page = self.client.search_runs(
                experiments,
                f"tags.{view.FINGERPRINT} LIKE '%'",
                max_results=PAGE,
                order_by=OLDEST_FIRST,
                page_token=token,
            )
            for run in page:
                key = run.data.tags[view.FINGERPRINT]
                if key in wanted:
                    found.setdefault(key, run)
            token = page.token
            if not token:
                break
        return found

    def created(self, experiment_id: str, started: float, tags: Mapping[str, str], identity: str, name: str) -> Run:
        """A new run. `identity` names the tag that no other run has: if an answer is lost, it is looked for first."""
        try:
            return self.client.create_run(experiment_id, int(1000 * started), dict(tags), run_name=name)
        except Exception:
            time.sleep(AGAIN)
            if made := self.oldest([experiment_id], identity, tags[identity]):
                return made
            return self.client.create_run(experiment_id, int(1000 * started), dict(tags), run_name=name)
