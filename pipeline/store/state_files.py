"""Weights in files, one tensor at a time: safetensors, folders of them as Hugging Face writes, and torch's own files.

Reading is by copy, not by mapping: mapped pages of many models would count as memory until the system takes them back.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from amalgam.pipeline.store.checkpoints import read_state

INDEX, SINGLE, ADAPTER = "model.safetensors.index.json", "model.safetensors", "adapter_model.safetensors"
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {code: dtype for dtype, code in CODES.items()}
HEADER_ALIGNMENT = 8  # bytes; so tensors begin where every dtype may


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    file: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class StateFile(Mapping[str, Tensor]):
    """A state dict whose tensors are read on access, anew each time."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> Tensor:
        entry = self.entries[name]
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        if tensor.numel():
            with entry.file.open("rb", buffering=0) as file:
                file.seek(entry.offset)
                _fill(file.readinto, tensor.view(-1).view(torch.uint8).numpy().data, entry.file)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def meta(self, name: str) -> Tensor:
        """A tensor of the same shape and dtype without values, for which no weights are read."""
        entry = self.entries[name]
        return torch.empty(entry.shape, dtype=entry.dtype, device="meta")

    @property
    def shards(self) -> dict[str, list[str]]:
        """Names of the tensors by file name, in the order of the files."""
        found: dict[str, list[str]] = {}
        for name, entry in self.entries.items():
            found.setdefault(entry.file.name, []).append(name)
        return found


def open_state(path: Path) -> Mapping[str, Tensor]:
    """The weights at `path`: a `.safetensors` file, a folder with one or with an index of shards, or a `.pt` file.

    Nothing is unpickled. Raises ValueError if nothing is there, a shard is missing, or a file is cut short.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.name.endswith(".index.json"):
        return _open_index(path)
    if path.suffix == ".safetensors":
        return StateFile(_entries(path))
    return read_state(path)


def write_safetensors(path: Path, meta: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a stream of tensors, in the order of `meta` (their shapes and dtypes); one lies in memory at a time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, one in meta.items():
        begin, end = end, end + one.numel() * one.element_size()
        header[name] = {"dtype": CODES[one.dtype], "shape": list(one.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for expected, (name, tensor) in zip(meta, tensors, strict=True):
            assert name == expected and tensor.dtype == meta[name].dtype and tensor.shape == meta[name].shape, name
            rest = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
            while len(rest):
                rest = rest[file.write(rest) :]


def _open_folder(folder: Path) -> StateFile:
    if (folder / INDEX).is_file():
        return _open_index(folder / INDEX)
    for name in (SINGLE, ADAPTER):
        if (folder / name).is_file():
            return StateFile(_entries(folder / name))
    raise ValueError(f"{folder} holds no weights: expected {SINGLE}, {INDEX} or {ADAPTER}")


def _open_index(index: Path) -> StateFile:
    try:
        places: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is no index of shards: it has no weight_map") from error
    entries: dict[str, Entry] = {}
    for name in sorted(set(places.values())):
        found = _entries(index.parent / Path(name).name)
        entries |= {tensor: entry for tensor, entry in found.items() if places.get(tensor) == name}
    if missing := sorted(places.keys() - entries.keys()):
        raise ValueError(f"{index} names {missing[0]!r}, which {places[missing[0]]} does not hold")
    return StateFile(entries)


def _entries(path: Path) -> dict[str, Entry]:
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt"):  # checks the header and the file's length
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short or not a safetensors file ({error})") from error
    header.pop("__metadata__", None)
    if odd := {facts["dtype"] for facts in header.values()} - DTYPES.keys():
        raise ValueError(f"{path} holds tensors of {min(odd)}, which cannot be merged; known are {', '.join(DTYPES)}")
    ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {
        name: Entry(path, 8 + size + facts["data_offsets"][0], DTYPES[facts["dtype"]], tuple(facts["shape"]))
        for name, facts in ordered
    }


def _fill(read: Callable[[memoryview], int | None], rest: memoryview, path: Path) -> None:
    while len(rest):
        if not (count := read(rest)):
            raise ValueError(f"{path} is cut short: copy it again")
        rest = rest[count:]
