"""Connect to Ray: an own instance on this machine, or a cluster by its address; quiet, no calls home."""

import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from amalgam.pipeline.console import first_line, say
from amalgam.pipeline.engine.ray.growth import declared_growth
from amalgam.pipeline.engine.ray.user_files import runtime_environment
from amalgam.pipeline.engine.step import Resources, Step

OBJECT_STORE_BYTES = 128 * 2**20  # Steps exchange files; only records and configs travel through Ray.
INSIDE_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Set by `ray job submit`, which has sent the code already.
STARTS = 3  # attempts to start Ray on this machine
PATIENCE = 5  # seconds a cluster may take to answer
GB = 1e9  # bytes
UNITS = {"CPU": ("CPUs", "--num-cpus", 1), "GPU": ("GPUs", "--num-gpus", 1), "memory": ("GB of memory", "--memory", GB)}
"""How Ray's resources are requested: in words, by which flag, in which unit."""
EPS = 1e-9  # what a quotient may lack to a whole number by rounding


@contextmanager
def connected(address: str | None, steps: Sequence[Step]) -> Iterator[None]:
    """Be connected to Ray inside the block, at `address`, else at RAY_ADDRESS, else in an own local instance.

    Raises ValueError if no cluster answers or if it can never offer what a step requests.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; unset, it warns.
    # Ray ends a worker that idles for a second, and its successor imports torch anew: half the time of a small run.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
    # A machine that is cut off says no farewell: without these a task that ran there is waited for many minutes.
    os.environ.setdefault("RAY_grpc_client_keepalive_time_ms", "20000")
    os.environ.setdefault("RAY_grpc_client_keepalive_timeout_ms", "20000")
    ours = not ray.is_initialized()  # A connection of the caller's is used, and stays open.
    try:
        if ours:
            _connect(address, steps)
        for wanted, name in dict.fromkeys((step.resources, step.name) for step in steps):
            check_room(wanted, name)
        yield
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str, steps: Sequence[Step]) -> None:
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        _start(include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        return
    try:
        _knock(address)
        with runtime_environment(steps) as code:
            ray.init(address, runtime_env=None if INSIDE_A_JOB in os.environ else code, **quiet)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster can be reached at {address} ({error}); "
            "start one, give its token (RAY_AUTH_MODE=token), or leave out --address"
        ) from error


def _start(**settings: Any) -> None:
    """Start Ray on this machine. Raises ValueError if it does not come up: Ray gives its processes 30 seconds."""
    for attempts_left in range(STARTS - 1, -1, -1):
        try:
            ray.init("local", **settings)
            return
        except Exception as error:  # which is all that Ray says of the kind of this one
            ray.shutdown()
            reason = first_line(error).partition(". ")[0]
            if not attempts_left:
                remedy = "end what keeps this machine busy, or give --local to run without Ray"
                raise ValueError(f"Ray did not start in {STARTS} attempts ({reason}): {remedy}") from error
            say(f"Ray did not start ({reason}): trying again")


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


@dataclass(frozen=True)
class _Machines:
    """Machines of one kind that a cluster has or may have."""

    count: float
    resources: Mapping[str, float]

    def room(self, kind: str, each: float) -> float:
        """For how many processes they suffice that want so much of a resource each."""
        return self.count * math.floor(self.resources.get(kind, 0) / each + EPS)


def check_room(wanted: Resources, name: str | None = None) -> None:
    """Raise ValueError if Ray would wait for ever for what a step of that name requests; say so if it only waits."""
    machines, known = _machines()
    for kind, each in (("CPU", wanted.num_cpus), ("GPU", wanted.num_gpus), ("memory", wanted.memory_gb * GB)):
        room = sum(some.room(kind, each) for some in machines) if each else math.inf
        if room >= wanted.num_workers:
            continue
        lack, flag, most = _lack(wanted.num_workers, kind, each, room, machines)
        sentence = f"step {name!r} {lack}" if name else f"this training {lack}"
        if known:
            remedy = f"request less ({flag} {name or 'STEP'}={most:g}) or give the --address of a larger cluster"
            raise ValueError(f"{sentence}: {remedy}")
        say(f"{sentence} yet: waiting for the cluster to grow")


def _lack(processes: int, kind: str, each: float, room: float, machines: Sequence[_Machines]) -> tuple[str, str, float]:
    """What there is too little of, the flag that requests it, and the most that it may request."""
    words, flag, unit = UNITS[kind]
    if room:
        lack = f"requests {processes} processes with {each / unit:g} {words} each, but there is room for {room:g}"
        return lack, "--num-workers", room
    most = max((some.resources.get(kind, 0) for some in machines), default=0) / unit
    return f"requests {each / unit:g} {words}, but no machine has more than {most:g}", flag, most


def _machines() -> tuple[list[_Machines], bool]:
    """The machines that there can be, and whether that is known for sure: else these are those that run now."""
    running = [_Machines(1, node["Resources"]) for node in ray.nodes() if node["Alive"]]
    if ray.util.client.ray.is_connected():
        return running, False  # ray:// does not let us ask for more
    groups, grows = declared_growth()
    if groups:
        return [_Machines(count, resources) for count, resources in groups], True
    return running, not grows
