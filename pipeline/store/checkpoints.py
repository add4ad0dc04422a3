"""Checkpoints: a folder with `config.json` (how to build the module) and `model.safetensors` (its weights).

Nothing is ever unpickled: a foreign file is safetensors, or what torch reads with `weights_only=True`.
"""

import pickle  # for the name of its error alone
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.fx import GraphModule

from amalgam.tasks.data.pixels import Images, Scale
from amalgam.tasks.fusion import resize
from amalgam.tasks.models import build
from amalgam.tasks.models.spec import ModelSpec

M = TypeVar("M", bound=BaseModel)
NONZEROS = "nonzeros.safetensors"
PICTURES = "pictures.json"
WRAPPERS = ("state_dict", "model", "model_state_dict")  # Where training scripts nest the weights.


class Pictures(BaseModel):
    """How a network is fed pictures, and what its outputs are called."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    class_names: tuple[str, ...]
    mean: Scale = 0.5
    """What is subtracted from pixels in [0, 1]; see `DataSpec.mean`."""
    std: Scale = 0.5
    """What the difference is divided by; see `DataSpec.std`."""


def save_model(module: nn.Module, spec: ModelSpec, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` into an existing folder.

    Raises ValueError for a network that `load_model` could not build again.
    """
    if isinstance(module, GraphModule):
        raise ValueError(
            f"a fused {spec.name} is rebuilt from its recorded operations, which a checkpoint does not hold: "
            "fuse it in Python (amalgam.fuse) and keep it with torch.export.save"
        )
    write_state(module, folder / "model.safetensors")
    (folder / "config.json").write_text(spec.model_dump_json(indent=2) + "\n")


def write_state(module: nn.Module, path: Path) -> None:
    """Write a module's weights as safetensors."""
    # Not save_file: it makes files that only their owner may read, and an MLflow server is often another user.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    path.write_bytes(save(state))


def load_model(folder: Path) -> nn.Module:
    """The module of a checkpoint folder, in eval mode, at the widths its weights have."""
    state = read_state(folder / "model.safetensors")
    return fill(build(read_spec(folder), seed=0), state, str(folder), resizable=True).eval()


def save_nonzeros(allowed: Mapping[str, Tensor], folder: Path) -> None:
    """Write, beside a fused network, where its parameters may differ from zero."""
    masks = {name: mask.cpu().contiguous() for name, mask in allowed.items()}
    (folder / NONZEROS).write_bytes(save(masks))


def read_nonzeros(folder: Path) -> dict[str, Tensor]:
    """What `save_nonzeros` wrote beside a network; empty for a network without structural zeros."""
    return load_file(folder / NONZEROS) if (folder / NONZEROS).is_file() else {}


def save_pictures(images: Images, folder: Path) -> None:
    """Write, beside a network, how it is fed pictures such as these."""
    about = Pictures(class_names=images.class_names, mean=images.mean, std=images.std)
    (folder / PICTURES).write_text(about.model_dump_json(indent=2) + "\n")


def read_pictures(folder: Path) -> Pictures:
    """How the network of a folder is fed pictures; where nothing was written, classes have numbers for names."""
    if (folder / PICTURES).is_file():
        return Pictures.model_validate_json((folder / PICTURES).read_bytes())
    return Pictures(class_names=tuple(map(str, range(read_spec(folder).num_classes))))


def read_spec(folder: Path) -> ModelSpec:
    """What the network of a checkpoint folder is. Raises ValueError if the folder is no checkpoint."""
    return read_json(ModelSpec, folder / "config.json", "checkpoint")


def read_json(model: type[M], path: Path, what: str) -> M:
    """The value in a JSON file of a folder. Raises ValueError if the folder is no `what`, or the file is damaged."""
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is no {what}: it has no {path.name}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{path} describes no {what}: {where} {problem['msg']}") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in a `.safetensors` file or in a `.pt` file without pickled objects, on the CPU.

    Raises ValueError if the file is absent, cut short, pickled, no state dict, or holds a NaN.
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is cut short or not a safetensors file ({error})") from error
    else:
        state = _read_torch_file(path)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path} holds NaN or infinite values in {name!r}: it cannot be fused")
    return state


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str, *, resizable: bool = False) -> nn.Module:
    """The module holding exactly the tensors of `state`; at other widths too if `resizable`.

    Raises ValueError, naming `source` and the tensors, if any are missing, extra or of another shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if missing := sorted(shapes.keys() - found.keys()):
        raise ValueError(f"{source} lacks {_some(missing)} of the model; is it a checkpoint of another model?")
    if extra := sorted(found.keys() - shapes.keys()):
        raise ValueError(f"{source} has {_some(extra)}, which the model lacks; is it a checkpoint of another model?")
    if other := sorted(name for name in shapes if shapes[name] != found[name]):
        if not resizable:
            name = other[0]
            raise ValueError(f"{source} has {name!r} of shape {found[name]}, but the model's is {shapes[name]}")
        module = resize(module, dict(state))
    module.load_state_dict(dict(state))
    return module


def _read_torch_file(path: Path) -> dict[str, Tensor]:
    if _lost_its_end(path):
        raise ValueError(f"{path} is cut short: copy it again")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds pickled Python objects, which can run code when read, or is damaged: "
            "save the weights alone, torch.save(model.state_dict(), ...), or use .safetensors"
        ) from error
    except Exception as error:  # torch's reader meets arbitrary bytes with IndexError, KeyError and others
        raise ValueError(f"{path} is cut short or not a checkpoint of torch.save") from error
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ValueError(f"{path} is no state dict: expected names and tensors, got {type(loaded).__name__}")
    return dict(loaded)


def _lost_its_end(path: Path) -> bool:
    """Whether a file begins as a zip archive, as those of torch.save do, and has no directory at its end."""
    with path.open("rb") as file:
        return file.read(2) == b"PK" and not zipfile.is_zipfile(path)


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
