"""Staging the features of a CLIP's image tower beside its bare forward pass.

*Writing*: the same random 32x32 images pass through a vision transformer of width 192 with 4 blocks, bare and staged in
turn. Bare is the tower in eval mode, without gradients, on inputs that are ready; staged is what
`pipeline.steps.clip.features` does: pictures shifted by a view, scaled, encoded by the kernels of fine-tuning, written
as float32 rows. Of several rounds the best counts.
*Memory*: the peak of this process while it stages features of a shallow tower, and what four times the images add.
"""

import resource
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from amalgam.pipeline.engine.host import threads
from amalgam.pipeline.steps.clip.features import FeaturesConfig, write_features
from amalgam.pipeline.store.tables.features import Staged
from amalgam.pipeline.store.tables.rows_writer import MEBIBYTE
from amalgam.tasks.clip.finetuning.finetune import anchor
from amalgam.tasks.clip.zero_shot import Classifier, Head
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.loading import batches
from amalgam.tasks.data.pixels import Images
from amalgam.tasks.data.sources import Stored
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import ClipSpec
from benchmarks.measure import Measure, report, seconds

BATCH, SIDE, WIDTH, THREADS = 256, 32, 512, 2
CONFIG = FeaturesConfig(source=Stored(data=DataSpec(name="digits")), augment="shift", views=(1,), batch_size=BATCH)
PEAK_UNIT = 1024  # bytes in which Linux counts ru_maxrss
DISTINCT = 1024  # pictures that a set of any size is made of


def measure(num_batches: int = 4, rounds: int = 6, num_flat_batches: int = 200) -> list[Measure]:
    """Overhead of staging in percent, growth of memory."""
    with threads(THREADS), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.parquet"
        flat = memory(path, num_flat_batches)  # first: a peak is that of the whole process so far
        return [*overhead(path, num_batches, rounds), *flat]


def overhead(path: Path, num_batches: int, rounds: int) -> list[Measure]:
    """What staging adds to the forward pass."""
    classifier, images = tower(layers=4, width=192, patch=4), pictures(num_batches * BATCH)
    ready = [batch.images for batch in batches(images, range(len(images)), BATCH)]
    kernels = anchor(classifier, "cpu").encoder
    ways = {
        "bare": lambda: forward(classifier.encoder, ready),
        "kernels": lambda: forward(kernels, ready),
        "staged": lambda: stage(path, classifier, images),
    }
    tries = [{name: seconds(way) for name, way in ways.items()} for _ in range(rounds + 1)][1:]
    best = {name: min(times[name] for times in tries) for name in ways}
    return [
        Measure("bare forward pass", len(images) / best["bare"], "images/s"),
        Measure("bare forward pass by the kernels of fine-tuning", len(images) / best["kernels"], "images/s"),
        Measure("read, encoded and written", len(images) / best["staged"], "images/s"),
        # At least 0.9 of the bare throughput is at most 1 / 0.9 of its time.
        Measure("staging over the bare pass", (best["staged"] / best["bare"] - 1) * 100, "%", at_most=100 / 0.9 - 100),
    ]


def memory(path: Path, num_batches: int) -> list[Measure]:
    """Peak memory, and its growth with four times the images."""
    classifier, peaks = tower(layers=1, width=64, patch=16), list[float]()
    for count in (num_batches, 4 * num_batches):
        stage(path, classifier, pictures(count * BATCH))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT / MEBIBYTE)
    more = 3 * num_batches * BATCH * WIDTH * 4 / MEBIBYTE
    return [
        Measure(f"peak memory, {num_batches * BATCH} images", peaks[0], "MiB"),
        # Two row groups, which the writer may hold: the small run need not have met its worst moment.
        Measure(f"added to the peak by {more:.0f} MiB more values", peaks[1] - peaks[0], "MiB", at_most=64),
    ]


def tower(layers: int, width: int, patch: int) -> Classifier:
    """A vision transformer of random weights."""
    vision = {"image_size": SIDE, "layers": layers, "width": width, "patch_size": patch, "head_width": 64}
    text = {"context_length": 4, "width": 32, "heads": 2, "layers": 1}
    architecture = {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text}
    clip = build_clip(ClipSpec(architecture=architecture, words=("a",)))
    return Classifier(clip.image_tower, Head(WIDTH, 10)).eval()


@torch.no_grad()
def forward(encoder: nn.Module, inputs: list[Tensor]) -> None:
    """The bare forward pass."""
    for images in inputs:
        encoder(images)


def stage(path: Path, classifier: Classifier, images: Images) -> None:
    """One view of all images, encoded and written."""
    staged = Staged(backbone="random", data=images.fingerprint, augment="shift", views=(1,), part=0, num_parts=1)
    write_features(path, anchor(classifier, "cpu").encoder, images, CONFIG, staged, "cpu")


def pictures(count: int) -> Images:
    """Images of which only a few differ, so that the set itself takes no memory."""
    labels, shape = torch.arange(count) % 10, (3, SIDE, SIDE)
    return Images(lambda ids: PIXELS[ids % DISTINCT], labels, tuple("0123456789"), shape, lambda: "random")


PIXELS = torch.randint(256, (DISTINCT, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    report(__doc__, measure, tiny={"num_batches": 1, "rounds": 1, "num_flat_batches": 1})
