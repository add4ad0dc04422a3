"""A classifier from words: the head of CLIP's zero-shot classification, as a layer that can be trained.

Shapes: features (batch, width), logits (batch, classes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm

from amalgam.tasks.clip.prompts import checked_names, prompt, templates_of
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import normalise
from amalgam.tasks.data.pixels import Scale


class TextEncoder(Protocol):
    """What a head needs of a CLIP."""

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features (texts, width)."""
        ...


class Head(nn.Linear):
    """Logits `W h / |h| + b` of features h: their length does not matter, and unit features may be given as well.

    In the number format of the weights also under autocast: rows are as long as CLIP's scale, 100, and half precision
    would round their logits by whole tenths.
    """

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(normalize(features.to(self.weight.dtype), dim=-1))


class Classifier(nn.Module):
    """An image encoder and a head: images (batch, ...) to logits."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits

    def train(self, mode: bool = True) -> "Classifier":
        """As of any module, but an encoder of which nothing is trained stays in eval mode.

        Batch norms of any encoder do, and keep the statistics that they were pre-trained with: those of a batch would
        move features that nothing has changed yet.
        """
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        for module in self.encoder.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


def zero_shot_head(clip: TextEncoder, class_names: Sequence[str], templates: str | Sequence[str] = "openai") -> Head:
    """The head whose row c is the scaled unit mean of the unit embeddings of class c in all templates; its bias is 0.

    `templates` is a set by name ("openai" has 80 prompts, "simple" one) or a list of sentences with a slot {}. The
    scale of the logits is folded into the weights (section 2 of the method; Radford et al. 2021). Raises ValueError
    for empty class names and templates without a slot.
    """
    names, sentences = checked_names(class_names), templates_of(templates)
    rows = [_unit_mean(clip.encode_text([prompt(sentence, name) for sentence in sentences])) for name in names]
    weight = clip.logit_scale * torch.stack(rows)
    head = Head(weight.shape[1], len(names), device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.zero_()
    return head


def _unit_mean(features: Tensor) -> Tensor:
    return normalize(normalize(features, dim=-1).mean(0), dim=-1)


@dataclass(frozen=True)
class Projection:
    """Logits over the classes of a head to logits over those of a test set, each the maximum over some of the former.

    Logits that have the test set's classes already are left as they are, so projecting twice changes nothing, unless
    both have equally many classes.
    """

    groups: tuple[tuple[int, ...], ...]
    """For each class of the test set, the classes of the head that stand for it."""
    num_classes: int
    """Classes of the head."""

    def __post_init__(self) -> None:
        if not self.groups or not all(self.groups):
            raise ValueError("a projection needs at least one class, and each class at least one column of the head")
        for column in (column for group in self.groups for column in group):
            if not 0 <= column < self.num_classes:
                raise ValueError(f"a projection of {self.num_classes} classes cannot read class {column}")

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (batch, num_classes) to (batch, len(groups))."""
        width = logits.shape[1]
        if width == len(self.groups) and width != self.num_classes:
            return logits
        if width != self.num_classes:
            raise ValueError(f"this projection reads logits of {self.num_classes} classes, got {width}")
        longest = max(map(len, self.groups))
        # Groups are filled up with a member of their own, which leaves the maximum as it is.
        columns = torch.tensor([group + group[:1] * (longest - len(group)) for group in self.groups])
        return logits[:, columns.to(logits.device)].amax(-1)


def require_head_classes(class_names: Sequence[str], images: Images) -> None:
    """Raise ValueError if a label has no class in the head."""
    most = int(images.labels.max())
    if most >= len(class_names):
        raise ValueError(f"labels go up to class {most}, but the head has {len(class_names)} classes")


GIVEN = "given"
PREPARATIONS = {
    "OpenAI": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "one half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Means and deviations of pixels that encoders are commonly trained with."""
COMPARED = 512  # images


@torch.no_grad()
def prepared_otherwise(classifier: Classifier, images: Images, device: torch.device | str) -> dict[str, float]:
    """Accuracy on some of the images with their own mean and deviation (`GIVEN`) and with each of `PREPARATIONS`."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(len(images), generator=generator)[:COMPARED].sort().values
    pixels, labels = images.batch(places), images.labels[places].to(device)
    classifier = classifier.to(device).eval()
    ways: dict[str, tuple[Scale, Scale]] = {GIVEN: (images.mean, images.std), **PREPARATIONS}
    return {
        name: (classifier(normalise(pixels.to(device), mean, std)).argmax(1) == labels).double().mean().item()
        for name, (mean, std) in ways.items()
    }
