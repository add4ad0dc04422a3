"""The experiments by name: each a function whose typed keyword arguments are its flags."""

import inspect
from collections.abc import Callable
from typing import Any

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.architectures import architectures
from amalgam.pipeline.experiments.clip.finetune import REAL_PRESETS, clip_finetune
from amalgam.pipeline.experiments.clip.sae_ablation import clip_sae_ablation
from amalgam.pipeline.experiments.clip.spurious import spurious_styles
from amalgam.pipeline.experiments.clip.styles import STYLE_PRESETS, clip_styles
from amalgam.pipeline.experiments.combining import combine
from amalgam.pipeline.experiments.fusion.partial_fusion import PRESETS, partial_fusion
from amalgam.pipeline.experiments.imaging import few_shot, layered_volumes
from amalgam.pipeline.experiments.merging.checkpoints import checkpoint_merging
from amalgam.pipeline.experiments.merging.clip_tasks import clip_multi_task_merging
from amalgam.pipeline.experiments.merging.federated import federated
from amalgam.pipeline.experiments.merging.multi_task import multi_task_merging
from amalgam.pipeline.experiments.merging.sparse import sparse_finetuning


def with_defaults(
    experiment: Callable[..., Step], name: str, doc: str, defaults: dict[str, Any]
) -> Callable[..., Step]:
    """The same experiment, flag for flag, under another name and with other defaults."""

    def preset(**arguments: Any) -> Step:
        return experiment(**{**defaults, **arguments})

    signature = inspect.signature(experiment)
    assert defaults.keys() <= signature.parameters.keys(), f"{name} sets a flag that does not exist"
    parameters = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
    preset.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    preset.__annotations__, preset.__doc__, preset.__name__ = experiment.__annotations__, doc, name
    return preset


EXPERIMENTS: dict[str, Callable[..., Step]] = {
    **{name: with_defaults(partial_fusion, name, *preset) for name, preset in PRESETS.items()},
    "partial_fusion": partial_fusion,
    "combine": combine,
    "multi_task_merging": multi_task_merging,
    "clip_multi_task_merging": clip_multi_task_merging,
    "checkpoint_merging": checkpoint_merging,
    "sparse_finetuning": sparse_finetuning,
    "federated": federated,
    "clip_styles": clip_styles,
    **{name: with_defaults(clip_styles, name, *preset) for name, preset in STYLE_PRESETS.items()},
    "clip_sae_ablation": clip_sae_ablation,
    "clip_finetune": clip_finetune,
    "spurious_styles": spurious_styles,
    "architectures": architectures,
    "few_shot": few_shot,
    "layered_volumes": layered_volumes,
    **{name: with_defaults(clip_finetune, name, *preset) for name, preset in REAL_PRESETS.items()},
}
