"""Networks as programs: files of torch.export (`.pt2`), read only if no part of them can run code, and ONNX."""

import importlib.util
import inspect
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from amalgam.pipeline.console import first_line
from amalgam.pipeline.store.artifact import check_writable
from amalgam.pipeline.store.checkpoints import load_model, read_spec
from amalgam.tasks.tracing.running import unfused_attention

Format = Literal["torch", "onnx"]
SUFFIXES: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx"}
EXAMPLES = 2  # torch.export takes a batch of one for a constant

OPERATIONS = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.\w+|torch\.sym_\w+")
"""What nodes may call."""
WORDS = re.compile(r"[A-Za-z_]\w*")
IN_EXPRESSIONS = re.compile(
    "Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CleanDiv|CeilDiv|PythonMod|Eq|Ne|Le|Lt|Ge|Gt|And|Or|Not|"
    r"[Tt]rue|[Ff]alse|positive|negative|nonnegative|nonzero|integer|(s|u|zuf)\d+"
)
"""Words of sizes, which torch evaluates."""


def read_program(path: Path) -> nn.Module:
    """The network of a `.pt2` file, in eval mode as it was exported, with its parameters under their own names.

    Raises ValueError if the file is absent, damaged, or holds anything beside tensors and ATen's operations.
    """
    if not path.is_file():
        raise ValueError(f"no exported program at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                _check(path, name, archive)
        program = torch.export.load(path)
    except (zipfile.BadZipFile, KeyError, RuntimeError, json.JSONDecodeError, AssertionError) as error:
        raise ValueError(f"{path} is cut short or not a file of torch.export.save ({first_line(error)})") from error
    unguarded = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    network: nn.Module = program.module(**unguarded)
    for name in ("train", "eval"):  # torch puts functions there that refuse; the operations are those of eval mode
        network.__dict__.pop(name, None)
    return network.eval()


def _check(path: Path, name: str, archive: zipfile.ZipFile) -> None:
    """Raise ValueError if an entry of the archive holds, or is said to hold, pickled objects or foreign calls."""
    kind = Path(name).name
    if kind.startswith(("custom_obj", "opaque_obj")) or "/aotinductor/" in name:
        raise ValueError(f"{path} holds {kind}, which can run code when read: export the network without it")
    if kind.endswith(".pt") and (content := archive.read(name)):
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except Exception as error:
            raise ValueError(f"{path} holds pickled objects in {kind}, which can run code when read") from error
    if kind.endswith(".json"):
        for key, value in _fields(json.loads(archive.read(name))):
            if (
                (key == "use_pickle" and value)
                or (key == "target" and isinstance(value, str) and not OPERATIONS.fullmatch(value))
                or (key == "expr_str" and not _is_plain(str(value)))
            ):
                raise ValueError(f"{path} has {key} {value!r}, which is not read: it is none of ATen's")


def _is_plain(expression: str) -> bool:
    return all(IN_EXPRESSIONS.fullmatch(word) for word in WORDS.findall(expression))


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON text with what is under it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner)


def write_program(folder: Path, target: Path, form: Format) -> None:
    """Export the network of a folder that Amalgam wrote, for batches of any size.

    Raises ValueError if `target` exists, or ONNX's packages are not installed.
    """
    if target.exists():
        raise ValueError(f"{target} exists already: choose another file or remove it")
    if form == "onnx" and not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        raise ValueError("ONNX needs packages that are not installed: pip install 'amalgam[onnx]'")
    network, example = load_model(folder), torch.zeros(EXAMPLES, *read_spec(folder).in_shape)
    check_writable(target.parent)
    with unfused_attention(), torch.no_grad(), tempfile.TemporaryDirectory(dir=target.parent) as place:
        program = torch.export.export(
            network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
        )
        file = Path(place) / target.with_suffix(SUFFIXES[form]).name
        if form == "torch":
            torch.export.save(program, file)
        else:
            made = torch.onnx.export(program, dynamo=True, verbose=False)
            assert made is not None
            made.save(str(file))
        file.replace(target)
