"""Fine-tune both towers of a CLIP as it was trained, on images and prompts of their labels: the baseline FLYP.

Goyal et al. (2023), "Finetune like you pretrain": no head is trained; the classifier is the zero-shot one of the tuned
towers. Each image gets one of its class's prompts, drawn anew in every epoch. Images of one class share the target
evenly, as in the label-aware form of the authors' code: in a batch of few classes, prompts cannot be distinguished.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amalgam.tasks.clip.contrastive_loss import contrastive_loss
from amalgam.tasks.clip.finetuning.config import require_contrastive
from amalgam.tasks.clip.prompts import checked_names, prompt, templates_of
from amalgam.tasks.clip.zero_shot import Classifier, Head, zero_shot_head
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Batch, Indices
from amalgam.tasks.data.random_numbers import uniforms
from amalgam.tasks.models.clip import Clip
from amalgam.tasks.training.config import TrainConfig
from amalgam.tasks.training.epochs import Log, Save, State
from amalgam.tasks.training.loop import Measure, Trained, train
from amalgam.tasks.training.objective import Objective

STREAM = 1 << 32  # of the numbers that choose prompts; epochs are added to it
LARGEST_SCALE = 100.0  # of the logits, as in CLIP


@dataclass(frozen=True)
class TunedClip(Trained):
    """What contrastive fine-tuning gives: its module is a `Classifier`, and these are the towers it was made of."""

    clip: Clip


def finetune_contrastive(
    clip: Clip,
    images: Images,
    indices: Indices,
    validation_indices: Indices,
    class_names: Sequence[str],
    templates: str | Sequence[str],
    config: TrainConfig,
    seed: int,
    *,
    log: Log,
    measure: Measure | None = None,
    resume: State | None = None,
    save: Save | None = None,
    device: torch.device | str = "cpu",
) -> TunedClip:
    """Train copies of both towers and of the logit scale; the rest is as in `tasks.training.loop.train`.

    The training accuracy that is logged is that of finding a prompt of the right class among those of the batch.
    `measure` is given the image tower after every epoch. Raises ValueError for labels without a class name, and for
    settings that would have no or another meaning here.
    """
    require_contrastive(config)
    most = int(images.labels.max())
    if most >= len(class_names):
        raise ValueError(f"labels go up to class {most}, but there are {len(class_names)} class names")
    trained = train(
        _Towers(clip, checked_names(class_names), templates_of(templates)),
        images,
        indices,
        validation_indices,
        config,
        seed,
        log=log,
        objective=_Contrastive(seed),
        measure=measure and (lambda towers: measure(_tower(towers))),
        resume=resume,
        save=save,
        device=device,
    )
    towers = trained.module
    assert isinstance(towers, _Towers)
    classifier = Classifier(towers.clip.image_tower, towers.head())
    return TunedClip(classifier.eval(), trained.best_epoch, trained.epochs_trained, towers.clip)


def _tower(towers: nn.Module) -> nn.Module:
    assert isinstance(towers, _Towers)
    return towers.clip.image_tower


class _Towers(nn.Module):
    """A CLIP that classifies by the prompts of some classes, as its text tower understands them now."""

    prompts: Tensor

    def __init__(self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> None:
        super().__init__()
        self.clip, self.class_names, self.templates = clip, class_names, templates
        self.model = clip.model  # for parameters, states and devices; the same object
        self._head: Head | None = None
        tokens = [clip.tokenizer([prompt(template, name) for template in templates]) for name in class_names]
        self.register_buffer("prompts", torch.stack(tokens), persistent=False)  # (classes, templates, length)

    def train(self, mode: bool = True) -> "_Towers":
        """As of any module; a head made earlier may be out of date."""
        self._head = None
        super().train(mode)
        return self

    def head(self) -> Head:
        """The zero-shot head of the text tower."""
        if self._head is None:
            self._head = zero_shot_head(self.clip, self.class_names, self.templates)
        return self._head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes), for evaluation."""
        logits: Tensor = self.head()(self.clip.encode_image(images))
        return logits


class _Contrastive(Objective):
    """CLIP's loss between the images of a batch and prompts of their labels."""

    is_mean_over_images = False

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def __call__(self, module: nn.Module, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        assert isinstance(module, _Towers)
        drawn = uniforms(batch.ids, self.seed, 1, STREAM + epoch)[:, 0] * len(module.templates)
        prompts = module.prompts[batch.labels, drawn.long().to(batch.labels.device)]
        image_features = normalize(module.model.encode_image(batch.images).float(), dim=-1)
        text_features = normalize(module.model.encode_text(prompts).float(), dim=-1)
        scale = module.model.logit_scale.exp().clamp(max=LARGEST_SCALE)
        loss = contrastive_loss(image_features, text_features, scale, batch.labels)
        return _by_class(image_features.detach() @ text_features.detach().T, batch.labels, len(module.prompts)), loss


def _by_class(cosines: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The largest cosine of an image with prompts of each class, (batch, classes); absent classes are far below."""
    absent = cosines.new_full((len(cosines), num_classes), -2)
    return absent.scatter_reduce(1, labels.expand(len(cosines), -1), cosines, "amax")
