"""An experiment whose steps take time."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace


def nap(config: Mapping[str, Any], inputs: Mapping[str, Path], work: Workspace) -> dict[str, float]:
    """Sleep, and write a number."""
    time.sleep(config["seconds"])
    (work.out / "number").write_text(str(config["number"]))
    return {"number": config["number"]}


def collect(config: Mapping[str, Any], inputs: Mapping[str, tuple[Path, ...]], work: Workspace) -> dict[str, float]:
    """Add the numbers up."""
    return {"total": sum(int((folder / "number").read_text()) for folder in inputs["naps"])}


def naps(number: int = 6, seconds: float = 3.0) -> Step:
    """So many naps, added up."""
    each = tuple(Step("nap", nap, {"number": i, "seconds": seconds}) for i in range(number))
    return Step("collect", collect, {}, {"naps": each})
