"""Where MLflow keeps runs, and whether it is there; imports no mlflow, so it costs no time."""

import base64
import hashlib
import importlib.util
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from amalgam.pipeline.store.artifact import cache_folder

PATIENCE = 3  # seconds a server may take to say that it is there
# No word leaves this machine, a server that goes away costs seconds, nothing is printed, and `amalgam ui` only shows.
# A call is not repeated by the HTTP client: it does not know whether an answer that was lost made a run.
TRAINING_VIEW = "workflowType=machine_learning"  # else a first visitor sees the menus made for language models
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
SERVERS = ("http", "https")
DRIVERS = {"sqlite": "sqlite3", "postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}
"""Kinds of databases that MLflow knows, and the Python module that each is reached by if its URI names no other."""
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


@dataclass(frozen=True)
class Store:
    """Where MLflow keeps runs."""

    uri: str
    """A database such as `sqlite:///PATH`, or the address of a server; it may hold a name and a password."""
    artifacts: str | None = None
    """Folder for the files of new experiments, or its `file:` URI; None: the server decides."""
    root: Path | None = None
    """The folder of results whose own store it is; None for any other."""

    @property
    def is_server(self) -> bool:
        """Whether the store is reached over the network by HTTP."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def address(self) -> str:
        """The URI without name and password, as it may be printed."""
        parts = urlsplit(self.uri)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else self.uri

    @property
    def credentials(self) -> tuple[str, str] | None:
        """Name and password that the URI holds."""
        parts = urlsplit(self.uri)
        return (unquote(parts.username), unquote(parts.password or "")) if parts.username else None

    def without_secrets(self, text: str) -> str:
        """The text with the URI's password, wherever a library repeats it, blotted out."""
        password = urlsplit(self.uri).password
        for secret in filter(None, (self.uri, password, unquote(password or ""))):
            text = text.replace(secret, self.address if secret == self.uri else "***")
        return text

    def url(self, experiment_id: str, run_id: str) -> str | None:
        """Address of a run's page; None where no server shows it yet."""
        root = self.address.rstrip("/")
        return f"{root}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING_VIEW}" if self.is_server else None

    def check(self) -> None:
        """Raise ValueError if no MLflow can be reached by such a URI: its scheme or its Python module is not there."""
        try:
            parts = urlsplit(self.uri)
        except ValueError as error:
            raise ValueError(f"--tracking-uri is no address ({error})") from error
        kind, _, module = parts.scheme.partition("+")
        if kind in SERVERS and not module and parts.netloc:
            return
        keeps_nothing = kind == "sqlite" and parts.path.strip("/") in ("", ":memory:")
        if kind not in DRIVERS or keeps_nothing:
            known = ", ".join(f"{name}://" for name in (*SERVERS, *DRIVERS))
            raise ValueError(f"no MLflow store can be {self.address!r}: give --tracking-uri one of {known}")
        needed = module or DRIVERS[kind]
        if importlib.util.find_spec(needed) is None:
            raise ValueError(f"{self.address} needs the Python module {needed}, which is not installed: install it")

    def problem(self) -> str | None:
        """Why nobody answers, found out in seconds; None if somebody does or there is nobody to ask."""
        try:
            if self.is_server:
                self._ask()
            else:
                self._knock()
        except urllib.error.HTTPError as error:
            return None if error.code < 500 else f"it answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            return str(getattr(error.reason, "strerror", None) or error.reason)
        except (OSError, ValueError) as error:
            return self.without_secrets(getattr(error, "strerror", None) or str(error))
        return None

    def _ask(self) -> None:
        request = urllib.request.Request(f"{self.address.rstrip('/')}/health")
        if self.credentials:
            request.add_header(
                "Authorization", "Basic " + base64.b64encode(":".join(self.credentials).encode()).decode()
            )
        urllib.request.urlopen(request, timeout=PATIENCE).close()

    def _knock(self) -> None:
        parts = urlsplit(self.uri)
        if port := parts.port or PORTS.get(parts.scheme.partition("+")[0]):
            socket.create_connection((parts.hostname or "localhost", port), timeout=PATIENCE).close()


def store_of(root: Path, tracking_uri: str | None = None) -> Store:
    """The store the user named, else a database and a folder of files under `root`."""
    if tracking_uri:
        return Store(tracking_uri)
    root = root.absolute()
    return Store(sqlite_uri(root / DATABASE), (plainly(root) / ARTIFACTS).as_uri(), root)


def plainly(root: Path) -> Path:
    """The root, or where its name has something like `%20`, the place of a link to it.

    MLflow takes the path of a model that it loads for a URI, and so would look for another file.
    """
    if unquote(str(root)) == str(root):
        return root
    return cache_folder() / f"root-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}"


def sqlite_uri(database: Path) -> str:
    """The URI of a database file, with `%` and `?` quoted: in a URI they mean something."""
    return "sqlite:///" + str(database).replace("%", "%25").replace("?", "%3F")
