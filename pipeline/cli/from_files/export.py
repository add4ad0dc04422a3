"""`amalgam export`: a saved network as a program that runs without Amalgam, in torch.export's form or in ONNX."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from amalgam.pipeline.console import say

Format = Literal["torch", "onnx"]


def export(
    folder: Annotated[Path, Argument(help="Folder of a network that Amalgam wrote.")],
    format: Annotated[Format, Option(help="torch: a program of torch.export (.pt2); onnx: ONNX.")] = "torch",
    out: Annotated[
        Path | None, Option(help="File to write.", show_default="the folder's name with .pt2 or .onnx")
    ] = None,
) -> None:
    """Export a saved network as a program of torch.export or ONNX, for batches of any size."""
    from amalgam.pipeline.store.programs import SUFFIXES, write_program  # here, not above: it imports torch

    target = out or folder.with_name(folder.resolve().name + SUFFIXES[format])
    write_program(folder, target, format)
    say(f"exported network: {target}")
