"""The flags of `amalgam pretrain`: everything that can be refused without torch is refused first."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from amalgam.pipeline.console import say
from amalgam.pipeline.store.canonical import read_object
from amalgam.tasks.clip.prompts import SLOT, templates_of
from amalgam.tasks.clip.toy.config import PretrainConfig
from amalgam.tasks.clip.toy.networks import pretrain_config, small_architecture
from amalgam.tasks.clip.toy.pairs import Pairs, folder_pairs, table_pairs
from amalgam.tasks.data.catalogue import DataSpec, path_of
from amalgam.tasks.models.clip_spec import ClipSpec, Preprocessing
from amalgam.tasks.training.config import TrainConfig

FOLDERS = "imagefolder:"
HALF = (0.5, 0.5, 0.5)
HELD_OUT = 512  # pictures at most, a tenth of few


def pretrain(
    data: Annotated[
        str, Argument(help="CSV file with columns picture and caption, or imagefolder:PATH (PATH/train/CLASS).")
    ],
    out: Annotated[Path, Option(help="New folder for the CLIP, as --architecture and --checkpoint take it.")],
    templates: Annotated[
        list[str] | None,
        Option(help="Caption of a class, as 'a photo of a {}', or a set (simple, openai); repeat for several."),
    ] = None,
    architecture: Annotated[
        Path | None, Option(help="JSON file with embed_dim, vision_cfg, text_cfg.", show_default="a small network")
    ] = None,
    image_size: Annotated[
        int, Option(min=1, help="Side in pixels that a small network reads; an eighth is a patch.")
    ] = 32,
    width: Annotated[int, Option(min=1, help="Channels of its image tower, a multiple of 32.")] = 128,
    layers: Annotated[int, Option(min=1, help="Blocks of its image tower.")] = 4,
    epochs: Annotated[int, Option(min=1, help="Passes over the pictures.")] = 30,
    batch_size: Annotated[int, Option(min=2, help="Pictures per step, each compared with all captions.")] = 128,
    learning_rate: Annotated[float, Option(min=0, help="Peak learning rate.")] = 1e-3,
    seed: Annotated[int, Option(min=0, help="Draws weights, held-out pictures and order.")] = 0,
    data_root: Annotated[Path | None, Option(envvar="AMALGAM_DATA", help="Folder of the data sets.")] = None,
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Pre-train a small CLIP on your own pictures and captions."""
    pairs = pairs_of(data, templates, data_root)
    spec = _spec(architecture, image_size, width, layers, seed)
    held_out = min(HELD_OUT, len(pairs.files) // 10)
    config = _training(epochs, len(pairs.files) - held_out, batch_size, learning_rate)
    from amalgam.pipeline.cli.clip.pretrain_pairs import PretrainRequest, pretrain_pairs  # here: it imports torch

    for line in pretrain_pairs(PretrainRequest(pairs, spec, config, held_out, seed, device), out):
        say(line)
    say(f"fine-tune it: amalgam run clip_finetune --architecture {out} --checkpoint {out} --suite ...")


def pairs_of(data: str, templates: list[str] | None, root: Path | None) -> Pairs:
    """The pictures and their captions. Raises ValueError for templates that a table does not take."""
    if data.startswith(FOLDERS):
        is_set = templates is not None and len(templates) == 1 and SLOT not in templates[0]
        sentences = templates_of(templates[0] if templates and is_set else templates or "simple")
        return folder_pairs(path_of(DataSpec(name=data), root), sentences)
    if templates:
        raise ValueError(f"--templates make captions of folders of classes; {data} has captions: leave them out")
    return table_pairs(Path(data))


def _spec(architecture: Path | None, size: int, width: int, layers: int, seed: int) -> ClipSpec:
    """The network with random weights, and how it reads pictures."""
    if architecture is None:
        configured = small_architecture(size, max(1, size // 8), width, layers, embed_dim=64, context_length=32)
    else:
        content = read_object(architecture)
        configured = content.get("model_cfg", content)
    vision = configured.get("vision_cfg", {})
    read = vision.get("image_size", 224) if isinstance(vision, dict) else 224
    prepared = Preprocessing(size=(read, read) if isinstance(read, int) else tuple(read), mean=HALF, std=HALF)
    return ClipSpec(architecture=configured, preprocessing=prepared, seed=seed)


def _training(epochs: int, num_pictures: int, batch_size: int, learning_rate: float) -> PretrainConfig:
    config = pretrain_config(epochs, num_pictures, min(batch_size, num_pictures))
    train = TrainConfig(**dict(config.train) | {"learning_rate": learning_rate})
    return config.model_copy(update={"train": train})
