"""Open MLflow's pages on the runs under a root: a server that ends when the command does."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from amalgam.pipeline.console import say
from amalgam.pipeline.tracking.database import prepared
from amalgam.pipeline.tracking.run_log import ended_by_signals
from amalgam.pipeline.tracking.store import DATABASE, SETTINGS, store_of

PATIENCE = 10  # seconds a server may take to end


def ui_command(root: Path, port: int = 5000) -> list[str]:
    """Command line of a server, reached from this machine only, that shows the store under `root`."""
    store = store_of(root)
    places = ["--backend-store-uri", store.uri, "--default-artifact-root", str(store.artifacts)]
    return [sys.executable, "-m", "mlflow", "server", *places, "--host", "127.0.0.1", "--port", str(port), "-w", "1"]


def require_free(port: int) -> None:
    """Raise ValueError if somebody listens at that port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"port {port} of this machine cannot be used ({reason}): give another --port") from error


def require_store(root: Path) -> None:
    """Raise ValueError unless a run has made a store under `root`."""
    if not (root / DATABASE).is_file():
        raise ValueError(f"no MLflow store under {root}: run an experiment with `--root {root}` first")


def serve_ui(root: Path, port: int = 5000) -> int:
    """Show the store under `root` until interrupted; the server's exit status.

    Raises ValueError if there is no store or the port is taken. The server and the processes it starts are ended with
    this one, whether by Ctrl-C or by a signal that ends programs.
    """
    require_store(root)
    require_free(port)
    prepared(store_of(root))
    with ended_by_signals():
        server = subprocess.Popen(ui_command(root, port), env=os.environ | SETTINGS, process_group=0)
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server's whole group: it starts workers that outlive it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(PATIENCE)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            say(f"the MLflow server has not ended {PATIENCE} s after {signal.Signals(number).name}")
