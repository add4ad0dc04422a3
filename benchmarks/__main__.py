"""Run every benchmark, each in a fresh process, and write what was found beside this file.

python -m benchmarks               # 17 minutes; writes results.md and results.json; exit code 1 if a bound fails
python -m benchmarks fusion cached # only these anew; results.json keeps what was found of the others
python -m benchmarks --tiny --out DIR   # small sizes, to see that everything runs
python -m benchmarks.methods.fusion     # one of them, printed
python -m benchmarks gpu           # eight minutes; what waits for a GPU, in gpu.md (see gpu.py)
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import gpu
from benchmarks.machine import load, machine
from benchmarks.measure import Measure, row, table

BENCHMARKS = {
    "fusion": "methods",
    "fusing": "methods",
    "scale": "methods",
    "merging": "methods",
    "staging": "system",
    "features": "system",
    "storage": "system",
    "sae": "methods",
    "explaining": "methods",
    "finetuning": "methods",
    "parallel": "system",
    "cached": "system",
    "durability": "system",
    "tracking": "system",
    "cluster": "system",
}
"""The folder of each, in the order of the results."""


def main() -> int:
    """The exit code: 0 if every bound holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=BENCHMARKS, help="which; all without a name")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs; bounds are not enforced")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {min(unknown)!r}: choose from {', '.join(BENCHMARKS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "results.json"
    known = json.loads(file.read_text())["benchmarks"] if file.is_file() else {}
    for name in arguments.names:
        print(f"{name} ...", flush=True)
        known[name] = run(name, arguments.tiny)
        for measure in map(Measure.from_json, known[name]["measures"]):
            print(f"  {row(measure)}", flush=True)
    results: dict[str, Any] = {"machine": machine(), "benchmarks": {n: known[n] for n in BENCHMARKS if n in known}}
    file.write_text(json.dumps(results, indent=2) + "\n")
    (arguments.out / "results.md").write_text(page(results))
    every = [Measure.from_json(m) for found in results["benchmarks"].values() for m in found["measures"]]
    return 0 if arguments.tiny or all(measure.holds for measure in every) else 1


def run(name: str, tiny: bool) -> dict[str, Any]:
    """One benchmark in a process of its own: what it measures, what it found, the load before it and its seconds."""
    before, start = load(), time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{BENCHMARKS[name]}.{name}", *["--tiny"] * tiny]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {**json.loads(done.stdout), "load_before": before, "seconds": time.perf_counter() - start}


def page(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = ["# Speed", "", "Written by `make bench`. Machine: " + facts + "."]
    for name, found in results["benchmarks"].items():
        lines += ["", f"## {name}", "", found["about"].strip(), ""]
        lines += [f"Load average before: {found['load_before']}; it took {found['seconds']:.0f} s.", ""]
        lines += table([Measure.from_json(measure) for measure in found["measures"]])
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(gpu.main(sys.argv[2:]) if sys.argv[1:2] == ["gpu"] else main())
