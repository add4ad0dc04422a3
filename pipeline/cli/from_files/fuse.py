"""The flags of `amalgam fuse`: everything that can be refused without torch is refused first."""

import json
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from typer import Argument, Option

from amalgam.pipeline.cli.errors import require_flags
from amalgam.pipeline.cli.plan import size_text
from amalgam.pipeline.console import output, say
from amalgam.pipeline.experiments.fusion.matching_methods import NAMES, method_class, times
from amalgam.tasks.data.catalogue import DataSpec, check
from amalgam.tasks.fusion.methods import Method, Refit, Target

BYTES_PER_PARAMETER = 4  # float32


def fuse(
    checkpoints: Annotated[list[Path], Argument(help="Weights of the members: .safetensors, or .pt state dicts.")],
    model: Annotated[
        str, Option(help="Architecture: mlp, vgg11, resnet18, timm:NAME, torchvision:NAME or file.py:CLASS.")
    ],
    data: Annotated[
        str, Option(help="Data: digits, mnist, cifar10, ..., torchvision:NAME, imagefolder:PATH or file.py:FUNCTION.")
    ],
    out: Annotated[Path, Option(help="New folder for config.json and model.safetensors.")],
    alpha: Annotated[float | None, Option(help="Fraction of units left unmatched: 0 fuses all, 1 keeps all.")] = None,
    method: Annotated[
        str | None, Option(help=f"{', '.join(NAMES)}, or a user-supplied file.py:Class. [default: PartialOT]")
    ] = None,
    flops: Annotated[str | None, Option(help="Budget of FLOPs, as a multiple of one member's, such as 1.3x.")] = None,
    parameters: Annotated[str | None, Option(help="Budget of nonzero parameters, such as 1.2x.")] = None,
    width: Annotated[
        float | None, Option(help="Units kept by clustering or pruning, as a multiple of one member's.")
    ] = None,
    cost: Annotated[str | None, Option(help="Matching cost: weights, activations or both.")] = None,
    weights: Annotated[str | None, Option(help="Weight of each member, such as 0.7,0.3. [default: equal]")] = None,
    model_options: Annotated[str, Option(help="Options of the architecture, as JSON.")] = "{}",
    image_size: Annotated[int | None, Option(help="Side of the images, in pixels. [default: the data's]")] = None,
    calibration: Annotated[int, Option(min=0, help="Unlabelled training images to fit layers on; 0 for none.")] = 512,
    refit: Annotated[bool, Option(help="Fit layers to the ensemble, or only correct statistics.")] = True,
    target: Annotated[Target, Option(help="Mean of the members that layers are fitted to.")] = "logits",
    data_root: Annotated[Path | None, Option(envvar="AMALGAM_DATA", help="Folder of the data sets.")] = None,
    seed: Annotated[int, Option(help="Seed of the choice of calibration images.")] = 0,
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Fuse checkpoints of one architecture into one network."""
    limits = {"flops": times(flops) if flops else None, "parameters": times(parameters) if parameters else None}
    if any(limits.values()) and alpha is not None:
        raise ValueError("a budget chooses alpha for every layer: leave out --alpha, or --flops and --parameters")
    settings = {"alpha": alpha, "cost": cost, "width": width, **limits}
    chosen = method_of(method or ("Budget" if any(limits.values()) else "PartialOT"), settings)
    described = DataSpec(name=data, image_size=image_size)
    check(described, data_root)
    shares = numbers_of(weights) if weights else None
    options = options_of(model_options)
    # Here, not above: it imports torch.
    from amalgam.pipeline.cli.from_files.fuse_checkpoints import Request, fuse_checkpoints

    how = Refit(head=target) if refit else False
    request = Request(
        tuple(checkpoints), model, options, described, data_root, chosen, shares, out, calibration, seed, device, how
    )
    output().print(_table(fuse_checkpoints(request)))
    say(f"fused network: {out}")


def method_of(name: str, settings: dict[str, Any]) -> Method:
    """The method of that name, with the settings that were given. Raises ValueError for one that it lacks."""
    kind, chosen = method_class(name), {key: value for key, value in settings.items() if value is not None}
    require_flags(kind, chosen)
    return kind(**chosen)


def numbers_of(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"weights are numbers separated by commas, such as 0.5,0.5, got {text!r}") from None


def options_of(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        options = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f'model options are JSON, such as {{"widths": [64, 64]}}, got {text[:100]!r}') from error
    if not isinstance(options, dict):
        raise ValueError(f'model options are a JSON object, such as {{"widths": [64, 64]}}, got {text!r}')
    return options


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("network", "accuracy", "NLL", "calibration error", "size", "nonzero", "MFLOPs", "ms"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        table.add_row(
            row["network"],
            f"{row['accuracy']:.4f}",
            f"{row['nll']:.4f}",
            f"{row['calibration_error']:.4f}",
            size_text(row["parameters"] * BYTES_PER_PARAMETER),
            f"{row['nonzero_parameters']:,}",
            f"{row['nonzero_flops'] / 1e6:.2f}",
            f"{row['latency_ms']:.2f}",
        )
    return table
