"""Where MLflow keeps runs, whether it is there, and how to open its pages; imports no mlflow, so it costs no time."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 3  # seconds a server may take to say that it is there
# No word leaves this machine, a server that goes away costs seconds, nothing is printed, and `amalgam ui` only shows.
TRAINING_VIEW = "workflowType=machine_learning"  # else a first visitor sees the menus made for language models
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


@dataclass(frozen=True)
class Store:
    """Where MLflow keeps runs."""

    uri: str
    """A database such as `sqlite:///PATH`, or the address of a server."""
    artifacts: str | None = None
    """Folder for the files of new experiments; None: the server decides."""

    @property
    def is_server(self) -> bool:
        """Whether the store is reached over the network."""
        return self.uri.startswith(("http://", "https://"))

    def url(self, experiment_id: str, run_id: str) -> str | None:
        """Address of a run's page; None where no server shows it yet."""
        root = self.uri.rstrip("/")
        return f"{root}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING_VIEW}" if self.is_server else None

    def problem(self) -> str | None:
        """Why the server does not answer, found out in seconds; None if it does or there is no server to ask."""
        if not self.is_server:
            return None
        try:
            urllib.request.urlopen(f"{self.uri.rstrip('/')}/health", timeout=PATIENCE).close()
        except urllib.error.HTTPError as error:
            return None if error.code < 500 else f"it answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            return str(getattr(error.reason, "strerror", None) or error.reason)
        except OSError as error:
            return error.strerror or str(error)
        return None


def store_of(root: Path, tracking_uri: str | None = None) -> Store:
    """The store the user named, else a database and a folder of files under `root`."""
    if tracking_uri:
        return Store(tracking_uri)
    root = root.absolute()
    return Store(f"sqlite:///{root / 'mlflow.db'}", str(root / "mlartifacts"))


def ui_command(root: Path, port: int = 5000) -> list[str]:
    """Command line of a server, reached from this machine only, that shows the store under `root`."""
    store = store_of(root)
    places = ["--backend-store-uri", store.uri, "--default-artifact-root", str(store.artifacts)]
    return [sys.executable, "-m", "mlflow", "server", *places, "--host", "127.0.0.1", "--port", str(port), "-w", "1"]


def serve_ui(root: Path, port: int = 5000) -> int:
    """Show the store under `root` until interrupted; the server's exit status. Raises ValueError if there is none."""
    if not (root / "mlflow.db").is_file():
        raise ValueError(f"no MLflow store under {root}: run an experiment with `--root {root}` first")
    return subprocess.run(ui_command(root, port), env=os.environ | SETTINGS, check=False).returncode
