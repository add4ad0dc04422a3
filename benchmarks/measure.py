"""What a benchmark found: numbers, and the bounds of some of them."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Measure:
    """One number of a benchmark."""

    what: str
    value: float
    unit: str
    at_most: float | None = None
    """Its bound; None where there is none."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The measure that `report` printed."""
        return cls(**fields)

    @property
    def holds(self) -> bool:
        """Whether the number keeps its bound, if it has one."""
        return self.at_most is None or self.value <= self.at_most


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call, with what it left a GPU to do."""
    _wait_for_gpu()
    start = time.perf_counter()
    work()
    _wait_for_gpu()
    return time.perf_counter() - start


def _wait_for_gpu() -> None:
    torch = sys.modules.get("torch")  # benchmarks that compute nothing do without it
    if torch and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def table(measures: Sequence[Measure]) -> list[str]:
    """The lines of a table in Markdown."""
    return ["| measured | value | bound | holds |", "|---|---|---|---|", *map(row, measures)]


def row(measure: Measure) -> str:
    """One line of a table."""
    bound, verdict = "", ""
    if measure.at_most is not None:
        bound, verdict = f"at most {quantity(measure.at_most, measure.unit)}", "yes" if measure.holds else "**no**"
    return f"| {measure.what} | {quantity(measure.value, measure.unit)} | {bound} | {verdict} |"


def quantity(value: float, unit: str) -> str:
    """Three digits, and the unit."""
    return f"{value:.3g} {unit}".strip() if abs(value) < 100 else f"{value:.0f} {unit}".strip()


def processor_seconds(work: Callable[[], object]) -> float:
    """Processor time of a call: of one thread, nearly its wall time on a machine where nothing else is at work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def report(about: str, measure: Callable[..., Sequence[Measure]], tiny: Mapping[str, Any]) -> None:
    """Measure and print the outcome as JSON; with --tiny at the sizes `tiny`, only to see that everything runs."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs; bounds are not enforced")
    sizes = tiny if parser.parse_args().tiny else {}
    print(json.dumps({"about": about, "measures": [asdict(found) for found in measure(**sizes)]}, indent=2))
