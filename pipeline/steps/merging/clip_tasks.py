"""Merge image towers of a CLIP that were fine-tuned on tasks behind fixed zero-shot heads of their class names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from pydantic import Field

from amalgam.pipeline.engine.kinds import Config, Kind
from amalgam.pipeline.engine.step import Expect, Metrics
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.clip.backbones import OpenedConfig, ZeroShotConfig, make_zero_shot
from amalgam.pipeline.steps.merging.merged import RowConfig, merged_row
from amalgam.tasks.clip.prompts import spoken
from amalgam.tasks.clip.testing.eight_tasks import ClipTask, check_files

WEIGHTS = (".pt", ".bin", ".safetensors")  # endings of files of weights


class TaskHeadConfig(Config):
    """A zero-shot head."""

    task: ClipTask


class ClipMergedConfig(RowConfig):
    """A row over tasks with zero-shot heads."""

    tasks: tuple[ClipTask, ...] = Field(min_length=1)


def make_task_head(config: TaskHeadConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """The image tower and the head of a task, whose classes are called like its folders where it gives no names."""
    from amalgam.tasks.data.opening import open_source

    task = config.task
    names = task.class_names or tuple(map(spoken, open_source(task.train, work.data_root).class_names))
    return make_zero_shot(ZeroShotConfig(class_names=names, templates=task.templates), inputs, work)


def merge_clip_tasks(config: ClipMergedConfig, inputs: Mapping[str, Any], work: Workspace) -> Metrics:
    """Write the merged network and `results.parquet`, as `merge_tasks` does."""
    from amalgam.pipeline.steps.merging.bench import Bench

    return merged_row(config, Bench.of_classifiers(config, inputs, work), [task.name for task in config.tasks], work)


def check_task(config: TaskHeadConfig, data_root: Path | None) -> None:
    """Raise ValueError, naming it, if a file of the task is missing."""
    check_files(config.task.name, data_root)


def check_some_weights(config: OpenedConfig, data_root: Path | None) -> None:
    """Raise ValueError if the file of weights is missing, or weights of no tag at all are on this machine.

    Which tag they are of is looked up with torch, before anything runs: see `check_weights`.
    """
    if config.clip.checkpoint:
        if not Path(config.clip.checkpoint).is_file():
            raise ValueError(f"there is no checkpoint {config.clip.checkpoint}")
        return
    own = data_root / "open_clip" if data_root else None
    caches = Path.home() / ".cache" / "clip", Path(constants.HF_HUB_CACHE)
    folders = [own] if own and own.is_dir() else [folder for folder in caches if folder.is_dir()]
    if not any(file.suffix in WEIGHTS for folder in folders for file in folder.rglob("*")):
        call = f"open_clip.create_model({config.clip.name!r}, {config.clip.pretrained!r})"
        raise ValueError(f"the weights {config.clip.pretrained!r} are not on this machine: fetch them with {call}")


TASK_HEAD = Kind("task_head", make_task_head, TaskHeadConfig, check=check_task, expect=Expect(10, 400_000_000))
MERGED_CLIPS = Kind("merged_clips", merge_clip_tasks, ClipMergedConfig, version=2, expect=Expect(600, 400_000_000))
