"""Checkpoints: a folder with `config.json` (how to build the network) and `model.safetensors` (its weights).

Nothing is ever unpickled: a foreign file is safetensors, or what torch reads with `weights_only=True`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.fx import GraphModule

from amalgam.pipeline.store.canonical import read_object
from amalgam.tasks.data.pixels import Images, Scale
from amalgam.tasks.fusion import resize
from amalgam.tasks.fusion.rebuild.block_layers import BlockLayer
from amalgam.tasks.fusion.rebuild.rebuilding import as_recorded
from amalgam.tasks.fusion.rebuild.records import layer_of, layer_record, recorded, replayed
from amalgam.tasks.models import build
from amalgam.tasks.models.foreign import read_checkpoint, some
from amalgam.tasks.models.spec import ModelSpec
from amalgam.tasks.tracing.trace import trace

M = TypeVar("M", bound=BaseModel)
NONZEROS = "nonzeros.safetensors"
PICTURES = "pictures.json"
STRUCTURE = "structure.json"


class Pictures(BaseModel):
    """How a network is fed pictures, and what its outputs are called."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    class_names: tuple[str, ...]
    mean: Scale = 0.5
    """What is subtracted from pixels in [0, 1]; see `DataSpec.mean`."""
    std: Scale = 0.5
    """What the difference is divided by; see `DataSpec.std`."""


def save_model(
    module: nn.Module,
    spec: ModelSpec | None,
    folder: Path | str,
    example: Tensor | tuple[Tensor, ...] | None = None,
) -> None:
    """Write a network into an existing folder: `model.safetensors` and, if given, `config.json` of its spec.

    What a spec does not build, networks of recorded operations and layers of blocks, is described in `structure.json`.
    A network of code without a spec is recorded by running it on `example`. Raises ValueError if there is neither.
    """
    names = getattr(module, "class_names", None)
    if spec is None and not isinstance(module, GraphModule):
        if example is None:
            kind = type(module).__name__
            raise ValueError(f"{kind} is built by code: give example, an input, and its operations are written instead")
        module = as_recorded(module, trace(module, example))
    folder, structure = Path(folder), dict[str, Any]()
    if isinstance(module, GraphModule):
        structure = recorded(module)
    elif blocks := {path: part for path, part in module.named_modules() if isinstance(part, BlockLayer)}:
        structure = {"layers": {path: layer_record(path, block) for path, block in blocks.items()}}
    write_state(module, folder / "model.safetensors", {"class_names": json.dumps(list(names))} if names else None)
    if structure:
        (folder / STRUCTURE).write_text(json.dumps(structure, allow_nan=False) + "\n")
    if spec:
        (folder / "config.json").write_text(spec.model_dump_json(indent=2) + "\n")


def write_state(module: nn.Module, path: Path, about: dict[str, str] | None = None) -> None:
    """Write a module's weights as safetensors, and what is said `about` them."""
    # Not save_file: it makes files that only their owner may read, and an MLflow server is often another user.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    path.write_bytes(save(state, about))


def load_model(folder: Path | str, *, dense: bool = False) -> nn.Module:
    """The network of a folder that `save_model` or `amalgam fuse` wrote, in eval mode.

    Its layers of blocks are made `dense` if requested. If its classes are known, their names are its attribute
    `class_names`. Raises ValueError if the folder is no checkpoint or damaged.
    """
    folder = Path(folder)
    structure, checkpoint = _read_structure(folder), read_checkpoint(folder / "model.safetensors")
    if "nodes" in structure:
        network, blocks = _assigned(_replayed(structure, folder), checkpoint.state, folder), dict[str, nn.Module]()
    else:
        network, blocks = _built(folder, structure, dict(checkpoint.state))
    if checkpoint.class_names:
        network.class_names = checkpoint.class_names  # type: ignore[assignment]
    return _with_layers(network, blocks, dense=dense).eval()


def _replayed(structure: dict[str, Any], folder: Path) -> nn.Module:
    try:
        return replayed(structure)
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{folder / STRUCTURE} does not describe a network ({error!r})") from error


def _built(folder: Path, structure: dict[str, Any], state: dict[str, Tensor]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The dense network of a spec, and its layers of blocks by path."""
    spec, blocks = read_spec(folder), dict[str, nn.Module]()
    for path, record in structure.get("layers", {}).items():
        own = {name: state.pop(name) for name in list(state) if name.startswith(f"{path}.")}
        block = _assigned(layer_of(record), {name.removeprefix(f"{path}."): t for name, t in own.items()}, folder)
        assert isinstance(block, BlockLayer)
        blocks[path] = block
        state |= {f"{path}.{name}": tensor for name, tensor in block.dense().state_dict().items()}
    return fill(build(spec, seed=0), state, str(folder), resizable=True), blocks


def _read_structure(folder: Path) -> dict[str, Any]:
    """How a network is built that its spec does not describe; empty if it does."""
    path = folder / STRUCTURE
    return read_object(path) if path.is_file() else {}


def _assigned(module: nn.Module, state: Mapping[str, Tensor], folder: Path) -> nn.Module:
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not hold the tensors of its {STRUCTURE}: {error}") from error
    return module.eval()


def _with_layers(module: nn.Module, blocks: Mapping[str, nn.Module], *, dense: bool) -> nn.Module:
    """The module with layers of blocks at some paths, or with dense layers in place of those that it has."""
    if dense:
        blocks = {path: part.dense() for path, part in module.named_modules() if isinstance(part, BlockLayer)}
    for path, layer in blocks.items():
        module.set_submodule(path, layer)
    return module


def save_nonzeros(allowed: Mapping[str, Tensor], folder: Path) -> None:
    """Write, beside a fused network, where its parameters may differ from zero."""
    masks = {name: mask.cpu().contiguous() for name, mask in allowed.items()}
    (folder / NONZEROS).write_bytes(save(masks))


def read_nonzeros(folder: Path) -> dict[str, Tensor]:
    """What `save_nonzeros` wrote beside a network; empty for a network without structural zeros."""
    return load_file(folder / NONZEROS) if (folder / NONZEROS).is_file() else {}


def save_pictures(images: Images, folder: Path, class_names: tuple[str, ...] | None = None) -> None:
    """Write, beside a network, how it is fed pictures such as these; its classes may have other names than theirs."""
    about = Pictures(class_names=class_names or images.class_names, mean=images.mean, std=images.std)
    (folder / PICTURES).write_text(about.model_dump_json(indent=2) + "\n")


def read_pictures(folder: Path) -> Pictures:
    """How the network of a folder is fed pictures; where nothing was written, classes have numbers for names."""
    if (folder / PICTURES).is_file():
        return read_json(Pictures, folder / PICTURES, "pictures")
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
    """The weights in a file, on the CPU. Raises ValueError as `read_checkpoint` does."""
    return dict(read_checkpoint(path).state)


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str, *, resizable: bool = False) -> nn.Module:
    """The module holding exactly the tensors of `state`; at other widths too if `resizable`.

    Raises ValueError, naming `source` and the tensors, if any are missing, extra or of another shape.
    """
    own = module.state_dict()
    # Versions of torch before 1.0 did not count the batches of a batch norm; the count is not used.
    uncounted = {name: own[name] for name in own.keys() - state.keys() if name.endswith("num_batches_tracked")}
    state = {**state, **uncounted}
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if missing := sorted(shapes.keys() - found.keys()):
        raise ValueError(f"{source} lacks {some(missing)} of the model; is it a checkpoint of another model?")
    if extra := sorted(found.keys() - shapes.keys()):
        raise ValueError(f"{source} has {some(extra)}, which the model lacks; is it a checkpoint of another model?")
    if other := sorted(name for name in shapes if shapes[name] != found[name]):
        if not resizable:
            name = other[0]
            raise ValueError(f"{source} has {name!r} of shape {found[name]}, but the model's is {shapes[name]}")
        module = resize(module, dict(state))
    module.load_state_dict(dict(state))
    return module
