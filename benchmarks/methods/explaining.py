"""The page of an explanation for a large dictionary: how long it takes to build, how large it is, how soon it opens.

16,384 latents (TopK, 32 active) of width 512 and 50,000 pictures of 100 classes in 4 test sets, on two threads.
Encoders are small random transformers at 32 pixels, so that statistics, pictures and the page are measured: encoding
with ViT-B/16 takes hours on a CPU, whatever reads its features. *Opens*: until a headless Chromium has drawn the first
cards, beyond what it takes for an empty page, where one is installed. No second autoencoder is trained, as is the
default above 4,096 latents.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from amalgam.pipeline.engine.host import threads
from amalgam.pipeline.reports.explanation.build import Domain, Material, explain
from amalgam.pipeline.reports.explanation.request import ExplainRequest
from amalgam.pipeline.store.clip_checkpoints import ClassifierInfo, key_of, save_classifier, save_sae
from amalgam.tasks.clip.toy.networks import small_clip
from amalgam.tasks.clip.zero_shot import Classifier, Head
from amalgam.tasks.data.loading import batches
from amalgam.tasks.data.pixels import in_memory
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.sae.autoencoder import SparseAutoencoder, initial, unit_norm
from amalgam.tasks.sae.config import FeatureInfo, SAEInfo, SAETrainConfig
from amalgam.tasks.sae.rules import TopK
from benchmarks.measure import Measure, report, seconds

THREADS, DOMAINS, BATCH = 2, 4, 1024
MINUTES, MEGABYTES, SECONDS = 10, 50, 3  # at most
CHANGE = 0.1  # of each parameter, in its standard deviations


@dataclass(frozen=True)
class Size:
    """A dictionary and what it is looked at on."""

    num_latents: int = 16_384
    num_images: int = 50_000
    width: int = 512
    classes: int = 100
    k: int = 32


def measure(size: Size = Size()) -> Sequence[Measure]:
    """Minutes, megabytes and seconds."""
    with tempfile.TemporaryDirectory() as place, threads(THREADS):
        folder, page = Path(place), Path(place) / "page"
        material = Material(pictures(size))
        request = written(size, folder, material.domains)
        page.mkdir()
        found = [Measure("the page is built", seconds(lambda: explain(request, material, page)) / 60, "min", MINUTES)]
        html = page / "explanation.html"
        found.append(Measure("size of the page", html.stat().st_size / 1e6, "MB", MEGABYTES))
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser:
            empty = folder / "empty.html"
            empty.write_text("<!doctype html><title>empty</title>")
            start, whole = (seconds(partial(drawn, browser, file)) for file in (empty, html))
            found.append(Measure("it opens", whole - start, "s", SECONDS))
    return found


def drawn(browser: str, page: Path) -> None:
    """Draw a page in a new browser."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    found = subprocess.run([browser, *flags, page.as_uri()], capture_output=True, text=True, check=True).stdout
    assert '<article class="card">' in found or page.name == "empty.html", "no card was drawn"


def written(size: Size, folder: Path, domains: Sequence[Domain]) -> ExplainRequest:
    """Folders of two classifiers that differ a little, and of an autoencoder without dead latents."""
    spec, names = small_clip(32, 8, 64, 1, size.width), tuple(f"class {number}" for number in range(size.classes))
    torch.manual_seed(0)
    clip = build_clip(spec)
    before = Classifier(clip.image_tower, Head(size.width, size.classes)).eval()
    after = deepcopy(before)
    with torch.no_grad():
        before.head.get_parameter("weight").mul_(100)
        for parameter in after.parameters():
            parameter.add_(CHANGE * parameter.std(correction=0) * torch.randn_like(parameter))
        after.head.get_parameter("weight").mul_(100)
    about = ClassifierInfo(clip=spec, class_names=names, templates=("{}",), backbone=key_of(clip))
    features = FeatureInfo(width=size.width, backbone=about.backbone)
    info = SAEInfo(**features.model_dump(), num_latents=size.num_latents, sparsity=TopK(k=size.k))
    save_sae(of_images(info, before, domains), folder / "sae")
    for name, classifier in (("before", before), ("after", after)):
        (folder / name).mkdir()
        save_classifier(classifier, about, folder / name)
    return ExplainRequest(
        before=folder / "before", after=folder / "after", sae=folder / "sae", batch_size=BATCH, new_latents=False
    )


@torch.no_grad()
def of_images(info: SAEInfo, classifier: Classifier, domains: Sequence[Domain]) -> SparseAutoencoder:
    """An autoencoder whose atoms are the centred features of as many images."""
    found, share = list[Tensor](), -(-info.num_latents // len(domains))
    for domain in domains:
        for batch in batches(domain.images, range(share), BATCH):
            found.append(unit_norm(classifier.encoder(batch.images)))
    features = torch.cat(found)[: info.num_latents]
    sae = initial(info, SAETrainConfig(), features.mean(0), seed=0)
    sae.decoder.copy_(unit_norm(features - features.mean(0)))
    sae.encoder.copy_(sae.decoder)
    return sae


def pictures(size: Size) -> tuple[Domain, ...]:
    """Smooth random pictures, a pattern of its class in each."""
    draw, number = torch.Generator().manual_seed(0), size.num_images // DOMAINS
    patterns, domains = torch.rand(size.classes, 3, 6, 6, generator=draw), []
    for domain in range(DOMAINS):
        labels = torch.randint(size.classes, (number,), generator=draw)
        coarse = 0.5 * patterns[labels] + 0.5 * torch.rand(number, 3, 6, 6, generator=draw)
        pixels = torch.cat([(255 * interpolate(part, (32, 32), mode="bilinear")).byte() for part in coarse.split(1024)])
        names = tuple(f"class {place}" for place in range(size.classes))
        domains.append(Domain(f"test set {domain}", in_memory(pixels, labels, names)))
    return tuple(domains)


if __name__ == "__main__":
    report(__doc__ or "", measure, {"size": Size(num_latents=256, num_images=400, width=64, classes=10, k=4)})
