"""Fine-tune a zero-shot classifier while drift of its features from the frozen encoder's is penalised.

    loss = cross-entropy + strength x regulariser(drift)

`tasks.training.loop` runs the loop, so a run cut short and resumed ends with the same weights, and the epoch is chosen
on held-out examples of the training distribution. LP-FT (Kumar et al. 2022) is two runs: the head, then everything.
"""

from typing import Any

import torch
from torch import Tensor, nn

from amalgam.tasks.clip.finetuning.anchors import Anchors, CachedAnchors, Unlabelled, anchor
from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from amalgam.tasks.clip.finetuning.drift import Autoencoder, frozen
from amalgam.tasks.clip.finetuning.objective import PenalisedCrossEntropy, PenaltyInputs
from amalgam.tasks.clip.zero_shot import Classifier
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Indices
from amalgam.tasks.training.distributed import ALONE, ProcessGroup
from amalgam.tasks.training.epochs import Log, Save, State
from amalgam.tasks.training.loop import Measure, Trained, train
from amalgam.tasks.training.objective import Objective
from amalgam.tasks.training.optimizers import Masks


def finetune(
    classifier: Classifier,
    images: Images,
    indices: Indices,
    validation_indices: Indices,
    config: FinetuneConfig,
    seed: int,
    *,
    log: Log,
    sae: Autoencoder | None = None,
    basis: Tensor | None = None,
    anchors: Anchors | None = None,
    unlabelled: Unlabelled | None = None,
    objective: Objective | None = None,
    measure: Measure | None = None,
    masks: Masks | None = None,
    resume: State | None = None,
    save: Save | None = None,
    device: torch.device | str = "cpu",
    processes: ProcessGroup = ALONE,
    compiler: str | None = None,
) -> Trained:
    """Train a copy of `classifier`, whose encoder as it is now is the anchor; else as `tasks.training.loop.train`.

    Frozen features come from `anchors`, or from a frozen copy of the encoder where None. `sae` and `basis` are for the
    regularisers that need them, `sae` also for a target overlap; `unlabelled` is for a config that penalises drift
    on unlabelled images. `masks` are those of `train`, `objective` replaces the cross-entropy of plain fine-tuning,
    `measure` is given the encoder. Raises ValueError for what is missing, and for cached anchors of other views.
    """
    if config.penalised:
        _check(config, sae, anchors, unlabelled)
        start = _start(classifier, device, compiler)
        inputs = PenaltyInputs(start, _on(sae, device), _on(basis, device), anchors, unlabelled, len(images), seed)
        objective = PenalisedCrossEntropy(config, inputs)
    network = _learning(classifier, config.trained)
    examples = images, indices, validation_indices
    run: Any = {"resume": resume, "save": save, "device": device, "processes": processes, "compiler": compiler}
    trained = train(
        network,
        *examples,
        config.train,
        seed,
        log=log,
        objective=objective,
        measure=measure and (lambda module: measure(module.get_submodule("encoder"))),
        masks=masks,
        **run,
    )
    trained.module.requires_grad_(True)  # the encoder of a probe learns in the next run
    return trained


def _learning(classifier: Classifier, trained: str) -> Classifier:
    """The classifier, the part of it that does not learn fixed."""
    if trained == "head":
        return Classifier(frozen(classifier.encoder), classifier.head)
    if trained == "encoder":
        return Classifier(classifier.encoder, frozen(classifier.head))
    return classifier


def _check(config: FinetuneConfig, sae: Autoencoder | None, anchors: Anchors | None, others: Unlabelled | None) -> None:
    """Raise ValueError for what is missing, and for what would have no effect."""
    on = config.anchor_on
    if (others is None) != (on == "labelled"):
        raise ValueError(f"anchor_on is {on!r}: {'give' if others is None else 'leave out'} unlabelled images")
    if anchors is not None and on == "unlabelled":
        raise ValueError("anchors of labelled images have no effect with anchor_on='unlabelled': leave anchors out")
    if config.overlap is not None and sae is None:
        raise ValueError(f"overlap={config.overlap} is measured on latents: give a sparse autoencoder (sae)")
    for each in (anchors, others and others.anchors):
        if each is not None and "levels" in config.regulariser.needs:
            raise ValueError(f"{type(config.regulariser).__name__} reads inside the frozen encoder: leave anchors out")
        if isinstance(each, CachedAnchors):
            each.check(config.train)


def _start(classifier: Classifier, device: torch.device | str, compiler: str | None) -> Classifier:
    """The classifier before fine-tuning, frozen, its encoder compiled if fine-tuning is."""
    start = anchor(classifier, device)
    if compiler is not None:
        start.encoder.compile(backend=compiler)
    return start


def _on(value: Autoencoder | Tensor | None, device: torch.device | str) -> Any:
    """A frozen copy of an autoencoder, or a tensor, on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    return frozen(value).to(device) if isinstance(value, nn.Module) else value
