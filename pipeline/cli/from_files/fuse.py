"""The flags of `amalgam fuse`: everything that can be refused without torch is refused first."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.table import Table
from typer import Argument, Option

from amalgam.pipeline.cli.errors import require_flags
from amalgam.pipeline.cli.from_files.preprocessing import FLAGS as PREPARATION
from amalgam.pipeline.cli.from_files.preprocessing import Preparation
from amalgam.pipeline.cli.from_files.registering import Registration, with_flags
from amalgam.pipeline.cli.plan import size_text
from amalgam.pipeline.console import output, say
from amalgam.pipeline.experiments.fusion.matching_methods import NAMES, method_class, times
from amalgam.tasks.data.catalogue import DataSpec, Interpolation, check
from amalgam.tasks.fusion.methods import Method, Refit, Target

BYTES_PER_PARAMETER = 4  # float32
ARCHITECTURES = (
    "Architecture of the checkpoints: mlp, vgg11, resnet18, timm:NAME, torchvision:NAME, open_clip:NAME (image tower), "
    "file.py:CLASS_OR_FUNCTION, or a .pt2 file; .pt2 files and folders have their own."
)
CHECKPOINTS = (
    "The members: weights (.safetensors, or .pt, .pth, .th without pickled objects), exported programs (.pt2), or "
    "folders that Amalgam wrote."
)
LOADING = (
    'Load the result with `from amalgam import load_model; load_model("OUT")`, export it with `amalgam export OUT`, or '
    "fuse it again."
)
FLAGS: dict[str, tuple[Any, Any]] = {
    "data": (
        Annotated[
            str, Option(help="Data: digits, mnist, cifar10, torchvision:NAME, imagefolder:PATH or file.py:FUNCTION.")
        ],
        ...,
    ),
    "out": (Annotated[Path, Option(help="New folder for the network and fusion.json.")], ...),
    "model": (Annotated[str | None, Option(help=ARCHITECTURES)], None),
    "model_options": (Annotated[str, Option(help="Options of the architecture, as JSON.")], "{}"),
    "alpha": (
        Annotated[float | None, Option(help="Share of units left unmatched: 0 fuses all, 1 keeps all.")],
        None,
    ),
    "method": (
        Annotated[str | None, Option(help=f"{', '.join(NAMES)}, or file.py:Class.", show_default="PartialOT")],
        None,
    ),
    "flops": (
        Annotated[str | None, Option(help="Budget of FLOPs, a multiple of one member's, such as 1.3x.")],
        None,
    ),
    "parameters": (Annotated[str | None, Option(help="Budget of nonzero parameters, such as 1.2x.")], None),
    "width": (
        Annotated[float | None, Option(help="Units kept by clustering or pruning, as a multiple of one member's.")],
        None,
    ),
    "cost": (Annotated[str | None, Option(help="Matching cost: weights, activations, both or functional.")], None),
    "method_options": (
        Annotated[str, Option(help='Further settings of the method, as JSON, such as {"criterion": "fisher"}.')],
        "{}",
    ),
    "weights": (
        Annotated[str | None, Option(help="Weight of each member, such as 0.7,0.3.", show_default="equal")],
        None,
    ),
    "class_names": (
        Annotated[
            list[str] | None,
            Option(
                help="Names of a member's outputs, such as cat,dog, or a file with one a line; once for all, or once "
                "for each.",
                show_default="those in the checkpoint, else the data's",
            ),
        ],
        None,
    ),
    "expect_accuracy": (
        Annotated[str | None, Option(help="Test accuracy of each member, such as 0.977,0.98: stops if it is another.")],
        None,
    ),
    "mean": (Annotated[str | None, Option(help="Subtracted from pixels in [0, 1]: a number, or one a channel.")], None),
    "std": (Annotated[str | None, Option(help="What the difference is divided by.")], None),
    "image_size": (Annotated[int | None, Option(help="Side of the images, in pixels.")], None),
    "interpolation": (Annotated[Interpolation | None, Option(help="How images are resized.")], None),
    "crop": (Annotated[float | None, Option(help="Share of the short side that the centre crop keeps.")], None),
    "calibration": (Annotated[int, Option(min=0, help="Unlabelled training images to fit layers on; 0: none.")], 512),
    "calibration_role": (
        Annotated[Literal["both", "matching", "statistics"], Option(help="What calibration images serve.")],
        "both",
    ),
    "refit": (Annotated[bool, Option(help="Fit layers to the ensemble, or only correct statistics.")], True),
    "target": (Annotated[Target, Option(help="Mean of the members that layers are fitted to.")], "logits"),
    "structured": (
        Annotated[bool, Option(help="Store and execute blocks without zeros, in layers where that is faster.")],
        False,
    ),
    "data_root": (Annotated[Path | None, Option(envvar="AMALGAM_DATA", help="Folder of the data sets.")], None),
    "seed": (Annotated[int, Option(help="Seed of the choice of calibration images.")], 0),
    "device": (Annotated[str, Option(help="cpu or cuda.")], "cpu"),
}


def fuse_command() -> Callable[..., None]:
    """The function behind `amalgam fuse`."""

    def fuse(checkpoints: list[Path], **given: Any) -> None:
        register = Registration.taken(given)
        preparation = _preparation({name: given.pop(name) for name in PREPARATION})
        described = DataSpec(name=given["data"], image_size=preparation.image_size)
        settings = {
            "method": _method(given),
            "data": described,
            "preparation": preparation,
            "weights": _numbers(given["weights"], "weights"),
            "expected": _expected(given["expect_accuracy"], len(checkpoints)),
            "class_names": tuple(_names(text) for text in given["class_names"] or ()),
            "model_options": options_of(given["model_options"]),
            "num_calibration": given["calibration"],
            "refit": Refit(head=given["target"]) if given["refit"] else False,
        }
        check(described, given["data_root"])
        as_given = ("model", "data_root", "out", "seed", "device", "calibration_role", "structured")
        # Here, not above: it imports torch.
        from amalgam.pipeline.cli.from_files.fuse_checkpoints import FuseRequest, fuse_checkpoints

        request = FuseRequest(tuple(checkpoints), **settings, **{name: given[name] for name in as_given})
        rows = fuse_checkpoints(request)
        output().print(_table(rows))
        if not request.expected:
            say("accuracies are those of images prepared as above: --expect-accuracy stops where members score less")
        say(f"fused network: {request.out}; load it with amalgam.load_model({str(request.out)!r})")
        register("fuse", request.out, given, rows[-1])

    fuse.__doc__ = f"Fuse trained networks of one architecture into one network.\n\n{LOADING}"
    return with_flags(fuse, Annotated[list[Path], Argument(help=CHECKPOINTS)], FLAGS)


def _method(given: dict[str, Any]) -> Method:
    """The method, with the settings that were given. Raises ValueError for one that it lacks."""
    limits = {name: times(given[name]) if given[name] else None for name in ("flops", "parameters")}
    if any(limits.values()) and given["alpha"] is not None:
        raise ValueError("a budget chooses alpha for every layer: leave out --alpha, or --flops and --parameters")
    settings = {name: given[name] for name in ("alpha", "cost", "width")} | limits
    name = given["method"] or ("Budget" if any(limits.values()) else "PartialOT")
    kind, chosen = method_class(name), {key: value for key, value in settings.items() if value is not None}
    chosen |= options_of(given["method_options"], "method", '{"criterion": "fisher"}')
    require_flags(kind, chosen)
    return kind(**chosen)


def _preparation(given: dict[str, Any]) -> Preparation:
    scale = {name: _numbers(given[name], name) for name in ("mean", "std")}
    one = {name: value[0] if value and len(value) == 1 else value for name, value in scale.items()}
    if given["crop"] is not None and not 0 < given["crop"] <= 1:
        raise ValueError(f"--crop is a share of the short side, above 0 and at most 1, got {given['crop']}")
    return Preparation(**{**given, **one})


def _numbers(text: str | None, what: str) -> tuple[float, ...] | None:
    """Numbers separated by commas."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError:
        raise ValueError(f"{what} are numbers separated by commas, such as 0.5,0.5, got {text!r}") from None


def _expected(text: str | None, num_members: int) -> tuple[float, ...]:
    """The accuracy of each member. Raises ValueError for percentages, or another number of them."""
    found = _numbers(text, "accuracies") or ()
    if len(found) not in (0, num_members) or not all(0 <= one <= 1 for one in found):
        raise ValueError(f"--expect-accuracy is a share in [0, 1] for each of {num_members} members, got {text!r}")
    return found


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them, or those in a file, one a line."""
    file = Path(text)
    is_file = "," not in text and file.is_file()
    parts = file.read_text().splitlines() if is_file else text.split(",")
    return tuple(part.strip() for part in parts if part.strip())


def options_of(text: str, what: str = "model", example: str = '{"widths": [64, 64]}') -> dict[str, Any]:
    """The options of a model or a method. Raises ValueError, with an example, for anything but a JSON object."""
    try:
        options = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{what} options are JSON, such as {example}, got {text[:100]!r}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{what} options are a JSON object, such as {example}, got {text[:100]!r}")
    return options


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    scores = {"accuracy": "accuracy", "nll": "NLL", "calibration_error": "calibration error"}
    scores = scores if any("distance" not in row for row in rows) else {"distance": "distance to the ensemble"}
    for column in ("network", *scores.values(), "size", "nonzero", "MFLOPs", "ms"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        table.add_row(
            row["network"],
            *(f"{row[name]:.4f}" if row.get(name) is not None else "-" for name in scores),
            size_text(row["parameters"] * BYTES_PER_PARAMETER),
            f"{row['nonzero_parameters']:,}",
            f"{row['nonzero_flops'] / 1e6:.2f}",
            f"{row['latency_ms']:.2f}",
        )
    return table
