"""The machine that benchmarks run on; Linux, read from `/proc`."""

import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine() -> dict[str, str]:
    """What the numbers depend on besides the code."""
    packages = ("torch", "numpy", "scipy", "pyarrow", "ray", "mlflow")
    return {
        "cores": str(os.cpu_count()),
        "CPU": _cpu(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": platform.system(),
        "Python": platform.python_version(),
        **{name: found for name in packages if (found := _version(name))},
    }


def load() -> str:
    """Load average of the last minute: above the benchmark's own, others were at work too."""
    return f"{os.getloadavg()[0]:.1f}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def free_port() -> int:
    """A port of the loopback address that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
