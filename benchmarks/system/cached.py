"""The command line where there is nothing to compute: a fully built experiment, `plan` and `--help`.

`digits_partial_fusion` is run once, then each command several times in processes of their own; medians are reported.
Wall time is that of the whole process, from the shell's point of view. *Our own time* is what a traced process
(`python -X importtime`) takes beyond the time in which it imports. Compiled Python files are kept in a folder of their
own and exist before anything is timed, as on any machine after the first use.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.measure import Measure, report

EXPERIMENT = "digits_partial_fusion"
HEAVY = ("torch", "ray", "mlflow")
IMPORT = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)


def measure(repeats: int = 5, flags: tuple[str, ...] = ()) -> list[Measure]:
    """Seconds of each command, and how many heavy packages it imports."""
    with tempfile.TemporaryDirectory() as folder:
        amalgam = CommandLine(Path(folder))
        experiment = (EXPERIMENT, *flags, "--root", f"{folder}/runs")
        amalgam.seconds("run", *experiment)
        again = [amalgam.traced("run", *experiment) for _ in range(repeats + 1)][1:]
        found = [
            Measure("fully built run, our own time beyond imports", median(t.own for t in again), "s", at_most=3),
            Measure("fully built run, imports", median(t.imports for t in again), "s"),
            Measure("fully built run, packages of Ray imported", float("ray" in again[0].packages), "", at_most=0),
        ]
        for name, command in (("--help", ("--help",)), ("plan", ("plan", *experiment))):
            heavy = amalgam.traced(*command).packages.intersection(HEAVY)
            times = [amalgam.seconds(*command) for _ in range(repeats)]
            found.append(Measure(f"amalgam {name}, wall time", median(times), "s", at_most=1))
            found.append(Measure(f"amalgam {name}, of {', '.join(HEAVY)} imported", len(heavy), "", at_most=0))
        return found


@dataclass(frozen=True)
class Traced:
    """One process under `-X importtime`."""

    imports: float
    """Seconds spent importing."""
    own: float
    """Seconds of everything else."""
    packages: frozenset[str]
    """Top-level packages imported."""


class CommandLine:
    """`amalgam` in fresh processes, which keep their compiled files in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.environment["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")

    def seconds(self, *arguments: str) -> float:
        """Wall time of one process."""
        return self._run([], arguments)[0]

    def traced(self, *arguments: str) -> Traced:
        """One process and its imports."""
        wall, errors = self._run(["-X", "importtime"], arguments)
        lines = IMPORT.findall(errors)
        imports = sum(int(microseconds) for microseconds, _ in lines) / 1e6
        return Traced(imports, wall - imports, frozenset(name.partition(".")[0] for _, name in lines))

    def _run(self, options: list[str], arguments: tuple[str, ...]) -> tuple[float, str]:
        start = time.perf_counter()
        command = [sys.executable, *options, "-m", "amalgam", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        wall = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return wall, done.stderr


if __name__ == "__main__":
    tiny = ("--seeds", "1", "--members", "2", "--epochs", "1", "--alphas", "0,1")
    report(__doc__, measure, tiny={"repeats": 1, "flags": tiny})
