"""`amalgam sae train | eval | card`: sparse autoencoders of a user's own activations, in SAELens's layout.

Everything that can be refused without torch is refused first.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from amalgam.pipeline.cli.flags import settings_flags, with_settings
from amalgam.pipeline.console import say
from amalgam.tasks.sae.config import SAESpec, SAETrainConfig
from amalgam.tasks.sae.rules import SPARSITIES, ReLU
from amalgam.tasks.user_names import unknown_name

KINDS: dict[str, type[Any]] = {
    **{kind.__name__.lower(): kind for kind in SPARSITIES},
    "standard": ReLU,
}
app = typer.Typer(help="Train, measure and describe sparse autoencoders of your own activations.", no_args_is_help=True)
Activations = Annotated[
    Path, Argument(help="Activations (rows, width): .npy, .safetensors or .parquet, or a folder of such shards.")
]
Folder = Annotated[Path, Argument(help="Folder of an autoencoder or transcoder: cfg.json, sae_weights.safetensors.")]
Column = Annotated[str | None, Option(help="Tensor or column of the activations, if a file has several.")]
Device = Annotated[str, Option(help="cpu or cuda.")]
FLAGS: dict[str, tuple[Any, Any]] = {
    "kind": (Annotated[str, Option(help=f"Kind of autoencoder: {', '.join(KINDS)} (relu is standard).")], "topk"),
    "out": (Annotated[Path, Option(help="New folder for the autoencoder and its card.")], ...),
    "source": (Annotated[str | None, Option(help="What gave the activations, such as 'gpt2 layer 5'.")], None),
    "column": (Column, None),
    "unit_norm": (Annotated[bool, Option("--unit-norm", help="Scale every row to norm 1 first.")], False),
    "expansion": (Annotated[float, Option(min=0, help="Latents per dimension of the activations.")], 4.0),
    "buffer_rows": (
        Annotated[int, Option(min=1, help="Rows in memory; more are streamed and shuffled among so many.")],
        1 << 17,
    ),
    "device": (Device, "cpu"),
}


def train_command() -> Callable[..., None]:
    """The function behind `amalgam sae train`, with a flag for every setting of kinds and of training."""
    of_kinds = settings_flags(SPARSITIES, hidden=("kind",))
    of_training = settings_flags([SAETrainConfig])

    def train(activations: Path, **values: Any) -> None:
        """Train a sparse autoencoder of a matrix of activations."""
        rule = with_settings(kind_named(values.pop("kind")), taken(values, of_kinds))
        settings = taken(values, of_training)
        if "steps" in settings:
            settings.setdefault("epochs", None)
        training = SAETrainConfig(**settings)
        spec = SAESpec(sparsity=rule, expansion=values.pop("expansion"), seed=training.seed)
        from amalgam.pipeline.cli.clip.sae_files import TrainRequest, train_files  # here: it imports torch

        request = TrainRequest(activations, spec, training, **values)
        train_files(request, say)
        say(f"autoencoder and its card: {request.out}")

    keyword = inspect.Parameter.KEYWORD_ONLY
    flags = FLAGS | of_kinds | of_training
    parameters = [
        inspect.Parameter(name, keyword, annotation=kind, default=value) for name, (kind, value) in flags.items()
    ]
    place = inspect.Parameter("activations", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Activations)
    train.__signature__ = inspect.Signature([place, *parameters])  # type: ignore[attr-defined]
    return train


def kind_named(name: str) -> type[Any]:
    """The rule of that name. Raises ValueError, naming near ones, if there is none."""
    plain = name.lower().replace("_", "").replace("-", "")
    if plain not in KINDS:
        raise unknown_name("kind of autoencoder", name, KINDS)
    return KINDS[plain]


def taken(values: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """The given ones of these flags, taken out of `values`."""
    return {name: value for name in names if (value := values.pop(name)) is not None}


@app.command("eval")
def evaluate(
    sae: Folder,
    activations: Activations,
    labels: Annotated[
        Path | None, Option(help="Classes of the rows, .npy. (default: a column or tensor `label`, if there is one)")
    ] = None,
    targets: Annotated[Path | None, Option(help="What a transcoder should give, as the activations are given.")] = None,
    k: Annotated[str, Option(help="Numbers of latents of sparse probes.")] = "1,2,5",
    probe_rows: Annotated[int, Option(min=1, help="Rows at most that probes are fitted and tested on.")] = 20_000,
    column: Column = None,
    out: Annotated[Path | None, Option(help="Folder for results.parquet, such as the autoencoder's.")] = None,
    seed: Annotated[int, Option(min=0, help="Draws the rows of probes.")] = 0,
    device: Device = "cpu",
) -> None:
    """Measure explained variance, L0, dead latents and, with labels, sparse probing and absorption."""
    try:
        ks = tuple(int(part) for part in k.split(","))
    except ValueError:
        raise ValueError(f"--k takes whole numbers with commas, such as 1,2,5, got {k!r}") from None
    from amalgam.pipeline.cli.clip.sae_files import EvalRequest, evaluate_files  # here: it imports torch

    for line in evaluate_files(
        EvalRequest(sae, activations, labels, targets, ks, probe_rows, column, out, seed, device)
    ):
        say(line)


@app.command()
def card(
    sae: Folder,
    license: Annotated[str | None, Option(help="Licence of the weights, such as mit.")] = None,
) -> None:
    """Write README.md, a model card as Hugging Face reads it, from the folder's settings and results."""
    from amalgam.pipeline.cli.clip.sae_card import write_card  # here: it imports torch

    say(f"card: {write_card(sae, license)}")


@app.command()
def export(
    sae: Folder,
    explanation: Annotated[Path, Option(help="Folder that amalgam explain wrote with this autoencoder.")],
    out: Annotated[Path, Option(help="New folder: SAELens's layout, and Neuronpedia's files in neuronpedia/.")],
    model_id: Annotated[str, Option(help="What Neuronpedia calls the model.")],
    source_id: Annotated[str, Option(help="What it calls the layer and autoencoder, such as 11-clip-res.")],
) -> None:
    """Write an explained autoencoder for SAELens and Neuronpedia, with names and most activating images."""
    for option, name in (("--model-id", model_id), ("--source-id", source_id)):
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise ValueError(f"{option} takes letters, digits, '.', '-' and '_', got {name!r}")
    from amalgam.pipeline.cli.clip.sae_export import ExportRequest, export_files  # here: it imports torch

    for line in export_files(ExportRequest(sae, explanation, out, model_id, source_id)):
        say(line)


app.command("train")(train_command())
