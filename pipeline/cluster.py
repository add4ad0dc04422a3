"""Connect to Ray: an own instance on this machine, or a cluster by its address; quiet, no calls home."""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import ray

from pipeline.step import Step

OBJECT_STORE_BYTES = 128 * 2**20  # Steps exchange files; only records and configs travel through Ray.
INSIDE_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Set by `ray job submit`, which has sent the code already.
PACKAGES = ("pipeline", "tasks")
PATIENCE = 5  # seconds a cluster may take to answer


@contextmanager
def connected(address: str | None, steps: Sequence[Step]) -> Iterator[None]:
    """Be connected to Ray inside the block, at `address`, else at RAY_ADDRESS, else in an own local instance.

    Raises ValueError if no cluster answers or if this machine alone can never offer what a step asks for.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; unset, it warns.
    # Ray ends a worker that idles for a second, and its successor imports torch anew: half the time of a small run.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
    ours = not ray.is_initialized()  # A connection of the caller's is used, and stays open.
    try:
        if ours:
            _connect(address)
        if address == "local":
            _check_feasible(steps, ray.cluster_resources())
        yield
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str) -> None:
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        return
    try:
        _knock(address)
        ray.init(address, runtime_env=None if INSIDE_A_JOB in os.environ else _code(), **quiet)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster can be reached at {address} ({error}); "
            "start one, give its token (RAY_AUTH_MODE=token), or leave out --address"
        ) from error


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def travel_by_value(steps: Sequence[Step]) -> None:
    """Send along the modules of functions and configs that a worker has no path to, such as a user's own file."""
    parts = [part for step in steps for part in (step.function, step.config) if not isinstance(part, str)]
    for module in {sys.modules[_home(part)] for part in parts}:
        has_source = getattr(module, "__file__", None) is not None
        package = module.__name__.partition(".")[0]
        # Ours are installed wherever a worker runs; by value their classes would be others than those it imports.
        if has_source and package not in PACKAGES and PathFinder.find_spec(package) is None:
            ray.cloudpickle.register_pickle_by_value(module)


def _home(part: Any) -> str:
    return part.__module__ if callable(part) else type(part).__module__


def _code() -> dict[str, list[str]]:
    source = Path(__file__).resolve().parents[1]
    return {"py_modules": [str(source / package) for package in PACKAGES]}


def _check_feasible(steps: Sequence[Step], offered: dict[str, float]) -> None:
    for step in steps:
        for kind, asked in (("CPU", step.resources.num_cpus), ("GPU", step.resources.num_gpus)):
            has, flag = offered.get(kind, 0), f"--num-{kind.lower()}s {step.name}={offered.get(kind, 0):g}"
            if asked > has:
                raise ValueError(
                    f"step {step.name!r} asks for {asked:g} {kind}s, but this machine has {has:g}: "
                    f"ask for less ({flag}) or give the --address of a cluster"
                )
