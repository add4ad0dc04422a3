"""Weights as training scripts leave them: nested in a wrapper, under a prefix, with other things beside them.

What is recognised is applied and noted in words; anything else is an error that says what would fit.
"""

import argparse
import json
import pickle  # for the name of its error alone
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from string import digits
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "state_dict_ema", "model_ema", "net", "module")
"""Where training scripts nest the weights."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "visual.")
"""What wrappers put before every name: DataParallel, torch.compile, Lightning, CLIP."""
COUNTERS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged", "position_ids", "relative_position_index")
"""Tensors that some versions and tools write and others do not; nothing in them is learned."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file, and what else it says."""

    source: str
    state: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    """What was recognised and applied."""


@dataclass
class _Contents:
    """What torch read from a file, on its way to a state dict."""

    loaded: Any
    places: set[str] = field(default_factory=set)
    """Devices that tensors were saved on."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights in a `.safetensors` file, or in a file of torch.save without pickled objects, on the CPU.

    Raises ValueError if the file is absent, cut short, pickled, no state dict, or holds a NaN.
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}")
    found = _safetensors(path) if path.suffix == ".safetensors" else _unwrapped(path, _torch_file(path))
    for name, tensor in found.state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path} holds NaN or infinite values in {name!r}")
    return found


def fitted(module: nn.Module, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the names and the precision of `module`: prefixes taken off, foreign tensors left out.

    Raises ValueError, naming tensors, and a prefix without which more of them would fit.
    """
    own = module.state_dict()
    state, notes = renamed(checkpoint.state, own)
    added = {name: own[name] for name in own.keys() - state.keys() if name.rpartition(".")[2] in COUNTERS}
    foreign = [name for name in state if name not in own and _is_foreign(name, own)]
    missing = sorted(own.keys() - state.keys() - added.keys())
    extra = sorted(state.keys() - own.keys() - set(foreign))
    if missing or extra:
        problem = f"lacks {some(missing)} of the model" if missing else f"has {some(extra)}, which the model lacks"
        raise ValueError(f"{checkpoint.source} {problem}{_remedy(state, own)}")
    for name, tensor in own.items():
        if name in state and state[name].shape != tensor.shape:
            shapes = f"{name!r} of shape {tuple(state[name].shape)}, but the model's is {tuple(tensor.shape)}"
            raise ValueError(f"{checkpoint.source} has {shapes}: give the model's options, or the classes of its head")
    if foreign:
        notes.append(f"{some(foreign)} left out, which the model lacks")
    kinds = sorted({_name_of(state[n].dtype) for n, t in own.items() if n in state and state[n].dtype != t.dtype})
    if kinds:
        notes.append(f"{' and '.join(kinds)} tensors read as {_name_of(next(iter(own.values())).dtype)}")
    fitting = {name: state[name].to(t.dtype) if name in state else added[name] for name, t in own.items()}
    return Checkpoint(checkpoint.source, fitting, checkpoint.class_names, (*checkpoint.notes, *notes))


def some(names: Iterable[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def renamed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The state under the names of the module, as far as known prefixes explain the difference."""
    chains = ("".join(chain) for length in (1, 2, 3) for chain in product(PREFIXES, repeat=length))
    best, notes = dict(state), []
    for prefix in (chain for chain in chains if any(name.startswith(chain) for name in state)):
        shorter = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        if _fitting(shorter, own) > _fitting(best, own):
            count = sum(name.startswith(prefix) for name in state)
            best, notes = shorter, [f"prefix {prefix!r} taken off {count} names"]
    for prefix in (p for p in PREFIXES if all(name.startswith(p) for name in own)):
        longer = {prefix + name: tensor for name, tensor in state.items()}
        if _fitting(longer, own) > _fitting(best, own):
            best, notes = longer, [f"prefix {prefix!r} put before all names"]
    return best, notes


def _fitting(names: Iterable[str], own: Mapping[str, Tensor]) -> int:
    return sum(name in own for name in names)


def _is_foreign(name: str, own: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is no part of the network: a tool's counter, or of a module that the network does not have.

    A tensor beside known ones may be a layer that the network lacks, and makes it a checkpoint of another network.
    """
    top, kinds = name.partition(".")[0], {other.partition(".")[0].rstrip(digits) for other in own}
    is_beside = top.isdigit() or top.rstrip(digits) in kinds
    return name.rpartition(".")[2] in COUNTERS or not is_beside


def _remedy(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What to do about names that do not fit."""
    prefixes = {name[: place + 1] for name in state for place, letter in enumerate(name) if letter == "."}
    counts = {prefix: _fitting({n.removeprefix(prefix) for n in state}, own) for prefix in prefixes}
    best = max(sorted(counts), key=lambda prefix: counts[prefix], default="")
    if best and counts[best] > _fitting(state, own):
        return f"; {counts[best]} of its {len(state)} names would fit without the prefix {best!r}: take it off"
    return "; is it a checkpoint of another model?"


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short or not a safetensors file ({error})") from error
    try:
        names = json.loads(metadata.get("class_names", "null"))
    except json.JSONDecodeError:
        names = None
    return Checkpoint(str(path), state, _class_names({"class_names": names}))


def _torch_file(path: Path) -> _Contents:
    with path.open("rb") as file:
        # Files of torch.save begin as zip archives do; one without a directory at its end was cut short.
        if file.read(2) == b"PK" and not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is cut short: copy it again")
    contents = _Contents(None)

    def on_cpu(storage: Any, place: str) -> Any:
        contents.places.add(place)
        return storage

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the arguments of a script, plain values
            contents.loaded = torch.load(path, map_location=on_cpu, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds pickled Python objects, which can run code when read, or is damaged: "
            "save the weights alone, torch.save(model.state_dict(), ...), or use .safetensors"
        ) from error
    except Exception as error:  # torch's reader meets arbitrary bytes with IndexError, KeyError and others
        raise ValueError(f"{path} is cut short or not a checkpoint of torch.save") from error
    return contents


def _unwrapped(path: Path, contents: _Contents) -> Checkpoint:
    """The state dict inside whatever a training script saved."""
    loaded, notes, names = contents.loaded, [], None
    while isinstance(loaded, Mapping):
        names = names or _class_names(loaded)
        known = [key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if not known or any(isinstance(value, Tensor) for value in loaded.values()):
            break
        beside = f" (it also has {some(known[1:])})" if known[1:] else ""
        notes.append(f"weights are under {known[0]!r}{beside}")
        loaded = loaded[known[0]]
    tensors = {k: v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, Mapping) else {}
    if not tensors:
        found = f"the keys {some(map(str, loaded))}" if isinstance(loaded, Mapping) else type(loaded).__name__
        raise ValueError(f"{path} is no state dict: expected names and tensors, got {found}")
    if others := [str(key) for key in loaded if key not in tensors]:
        notes.append(f"{some(others)} left out, which are no tensors")
    if places := sorted(contents.places - {"cpu"}):
        notes.append(f"weights of {', '.join(places)} are read on the CPU")
    return Checkpoint(str(path), tensors, names, tuple(notes))


def _class_names(metadata: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """Names of classes, in the order of the outputs, where a checkpoint holds them."""
    numbered = metadata.get("class_to_idx")
    if isinstance(numbered, Mapping):
        return tuple(map(str, sorted(numbered, key=lambda name: numbered[name])))
    for key in ("class_names", "classes"):
        if isinstance(metadata.get(key), (list, tuple)) and all(isinstance(name, str) for name in metadata[key]):
            return tuple(metadata[key])
    return None
