"""A small random CLIP as classifier folders, before and after a change of its weights, and an untrained autoencoder."""

import copy
from pathlib import Path

import torch

from amalgam.pipeline.store.clip_checkpoints import ClassifierInfo, key_of, save_classifier, save_clip, save_sae
from amalgam.tasks.clip.zero_shot import Classifier, zero_shot_head
from amalgam.tasks.models.clip import build_clip
from amalgam.tasks.models.clip_spec import ClipSpec
from amalgam.tasks.sae.autoencoder import initial, unit_norm
from amalgam.tasks.sae.config import FeatureInfo, SAEInfo, SAETrainConfig
from amalgam.tasks.sae.rules import TopK


@torch.no_grad()
def _look_apart(classifier: Classifier, some_images: torch.Tensor) -> torch.Tensor:
    """Take from the head what all features share, or an untrained network would see one class in everything."""
    mean = unit_norm(classifier.encoder(some_images)).mean(0)
    classifier.head.weight -= torch.outer(classifier.head.weight @ mean, mean) / mean.square().sum()
    return mean


def write_folders(
    place: Path, spec: ClipSpec, class_names: tuple[str, ...], templates: tuple[str, ...], some_images: torch.Tensor
) -> dict[str, Path]:
    """Folders by what they hold: `backbone`, `before`, `after`, `sae`."""
    clip = build_clip(spec)
    folders = {name: place / name for name in ("backbone", "before", "after")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    before = Classifier(clip.image_tower, zero_shot_head(clip, class_names, templates)).eval()
    after, draw = copy.deepcopy(before), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter += 0.3 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=draw)
    mean = _look_apart(before, some_images)
    _look_apart(after, some_images)
    about = ClassifierInfo(clip=spec, class_names=class_names, templates=templates, backbone=key_of(clip))
    save_clip(clip, spec, folders["backbone"])
    save_classifier(before, about, folders["before"])
    save_classifier(after, about, folders["after"])
    features = FeatureInfo(width=len(mean), normalised=True, backbone=about.backbone)
    info = SAEInfo(**features.model_dump(), num_latents=2 * len(mean), sparsity=TopK(k=4))
    save_sae(initial(info, SAETrainConfig(), mean, seed=0), place / "sae")
    return folders | {"sae": place / "sae"}
