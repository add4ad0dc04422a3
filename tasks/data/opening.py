"""Open a source: what `tasks.data.sources` describes becomes labelled images."""

from functools import cache
from pathlib import Path

from torch import arange, from_numpy

from amalgam.tasks.data.catalogue import KNOWN, DataSpec
from amalgam.tasks.data.images import Images, PartName, load
from amalgam.tasks.data.pixels import followed, taken, with_channels
from amalgam.tasks.data.sources import (
    AnySource,
    Coloured,
    Corrupted,
    LabelledConfig,
    MixedStyles,
    Stored,
    StyledPairs,
    StyledPhotos,
)
from amalgam.tasks.data.splits import Indices, SampleConfig, hold_out
from amalgam.tasks.data.synthetic.corruptions import corrupted_images
from amalgam.tasks.data.synthetic.pairs import open_pairs
from amalgam.tasks.data.synthetic.photos import open_photos
from amalgam.tasks.data.synthetic.renderer import Renderer, draw, draw_mixed


def open_source(source: AnySource, root: Path | None = None) -> Images:
    """The images of a source; nothing is downloaded. Raises ValueError as `tasks.data.images.load` does."""
    if isinstance(source, Corrupted):
        return corrupted_images(open_source(source.source, root), source.corruption, source.severity, source.seed)
    if isinstance(source, Stored):
        return _stored(source, root)
    if isinstance(source, Coloured):
        plain = source.data.model_copy(update={"mean": 0.5, "std": 0.5})  # one number, whatever the channels
        return with_channels(load(plain, source.split, root), 3, source.data.mean, source.data.std)
    if isinstance(source, MixedStyles):
        return draw_mixed(open_renderer(source.pictures, root), source)
    return draw(open_renderer(source, root), source)


def _stored(source: Stored, root: Path | None) -> Images:
    images = load(source.data, source.split, root)
    if source.validation_part:
        part = DataSpec(**dict(source.data) | {"part": source.validation_part})
        return followed(images, load(part, source.split, root))
    if not source.test_share:
        return images
    kept, tested = held_out(images, source.test_share, seed=0)
    return taken(images, from_numpy(kept if source.split == "train" else tested))


def open_renderer(source: StyledPairs | StyledPhotos, root: Path | None = None) -> Renderer:
    """What draws the pictures of a source, without end; `num_images` and `style` play no part."""
    return open_pairs(source, root) if isinstance(source, StyledPairs) else open_photos(source, root)


def open_pool(config: SampleConfig, root: Path | None = None) -> tuple[Images, Indices, Indices]:
    """The training images, the positions members may be trained on, and those held out for validation."""
    images = load(config.data, "train", root)
    return images, *held_out(images, config.validation_share, config.seed)


def open_labelled(config: LabelledConfig, root: Path | None = None) -> tuple[Images, Indices, Indices]:
    """The labelled images, the positions that are trained on, and those held out."""
    images = open_source(config.source, root)
    return images, *held_out(images, config.validation_share, config.seed)


def held_out(images: Images, share: float, seed: int) -> tuple[Indices, Indices]:
    """Both sides of a split that no source is on both sides of, or that the set itself has."""
    if images.num_held_out:
        every = arange(len(images)).numpy()
        return every[: -images.num_held_out], every[-images.num_held_out :]
    sources = None if images.sources is None else images.sources.numpy()
    return hold_out(images.labels.numpy(), share, seed, sources)


@cache
def check_content(data: DataSpec, split: PartName, root: Path | None) -> None:
    """Raise ValueError unless a split can be read, once for all that ask; of user-supplied sets alone.

    Sets known by name are what their name says, and some are large.
    """
    if data.name not in KNOWN:
        load(data, split, root)
