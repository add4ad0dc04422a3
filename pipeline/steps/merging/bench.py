"""The networks and pictures that merges of several tasks are scored with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.checkpoints import load_model, read_spec, save_model, save_pictures
from amalgam.pipeline.store.clip_checkpoints import load_classifier, read_about, save_classifier
from amalgam.pipeline.store.tables.statistics import read_statistics
from amalgam.tasks.clip.testing.eight_tasks import ClipTask
from amalgam.tasks.clip.zero_shot import Classifier
from amalgam.tasks.data.opening import open_labelled, open_source
from amalgam.tasks.data.sources import LabelledConfig
from amalgam.tasks.fusion import recalibrate
from amalgam.tasks.fusion.fitting.norms import batch_norms
from amalgam.tasks.merging.methods.method import MergeMethod
from amalgam.tasks.merging.multitask.data import TaskData, accuracy, task_data
from amalgam.tasks.merging.multitask.heads import encoder_state, with_all_heads, with_encoder
from amalgam.tasks.merging.staged import State
from amalgam.tasks.merging.statistics.grams import MergedBelow

if TYPE_CHECKING:
    from amalgam.pipeline.steps.merging.clip_tasks import ClipMergedConfig
    from amalgam.pipeline.steps.merging.merged import MergedConfig
    from amalgam.pipeline.steps.merging.personal import PersonalConfig


@dataclass(frozen=True)
class Bench:
    """A base, its fine-tuned networks with their heads, and what each is tested on."""

    base: dict[str, Tensor]
    modules: Sequence[nn.Module]
    members: Sequence[dict[str, Tensor]]
    """Encoders of the modules, as they were."""
    parts: Sequence[TaskData]
    num_rows: int
    device: str
    folders: Sequence[Path]
    """Where the modules lie."""
    staged: Any
    """Folder of statistics; None without."""

    @classmethod
    def opened(cls, config: "MergedConfig | PersonalConfig", inputs: Mapping[str, Any], work: Workspace) -> "Bench":
        """Read everything that the step's inputs name."""
        shape = read_spec(inputs["base"]).in_shape
        modules = [load_model(folder) for folder in inputs["members"]]
        parts = [task_data(t, shape, config.validation_share, config.seed, work.data_root) for t in config.tasks]
        base = encoder_state(load_model(inputs["base"]))
        staged = inputs.get("statistics")
        return cls(base, modules, _encoders(modules), parts, config.num_rows, work.device, inputs["members"], staged)

    @classmethod
    def of_classifiers(cls, config: "ClipMergedConfig", inputs: Mapping[str, Any], work: Workspace) -> "Bench":
        """The same of image towers of a CLIP with zero-shot heads."""
        modules = [load_classifier(folder) for folder in inputs["members"]]
        parts = [_clip_parts(task, config, work) for task in config.tasks]
        base = encoder_state(load_classifier(inputs["base"]))
        return cls(base, modules, _encoders(modules), parts, config.num_rows, work.device, inputs["members"], None)

    def statistics(self, method: MergeMethod) -> Any:
        """What the method needs, if anything."""
        if method.need == "score":
            return lambda state: sum(scores := self.validate(state)) / len(scores)
        if method.need == "live_grams":
            inputs = [[images for images, _ in parts.batches(self.num_rows)] for parts in self.parts]
            return MergedBelow(self.modules[0].cpu(), self.members, inputs)
        data = " ".join(parts.train.fingerprint for parts in self.parts)
        return None if method.need is None else read_statistics(self.staged, data)

    def validate(self, encoder: State, tasks: slice = slice(None)) -> list[float]:
        """Accuracy on the validation images of every task, or of some."""
        fresh = self._refreshed(encoder)
        pairs = zip(self.modules[tasks], self.parts[tasks], strict=True)
        return [accuracy(with_encoder(m, fresh), parts.train, parts.validation, self.device) for m, parts in pairs]

    def test(self, encoder: State, tasks: slice = slice(None)) -> list[float]:
        """Accuracy on the test images of every task, or of some."""
        fresh = self._refreshed(encoder)
        pairs = zip(self.modules[tasks], self.parts[tasks], strict=True)
        return [accuracy(with_encoder(module, fresh), parts.test, device=self.device) for module, parts in pairs]

    def own_accuracies(self) -> list[float]:
        """Test accuracy of every task's own network."""
        trios = zip(self.modules, self.members, self.parts, strict=True)
        return [accuracy(with_encoder(module, own), parts.test, device=self.device) for module, own, parts in trios]

    def save(self, encoder: State, tasks: Sequence[str], folder: Path) -> None:
        """Write the network of the encoder and all heads; where all pictures are prepared alike, also how."""
        whole = with_all_heads(self.modules, self._refreshed(encoder))
        names = tuple(
            f"{task}: {name}" for task, p in zip(tasks, self.parts, strict=True) for name in p.test.class_names
        )
        if isinstance(whole, Classifier):
            abouts = [read_about(member) for member in self.folders]
            templates = tuple(dict.fromkeys(template for about in abouts for template in about.templates))
            about = abouts[0].model_copy(update={"class_names": names, "templates": templates})
            return save_classifier(whole, about, folder)
        save_model(whole, read_spec(self.folders[0]).model_copy(update={"num_classes": len(names)}), folder)
        if len({(parts.test.mean, parts.test.std) for parts in self.parts}) == 1:
            save_pictures(self.parts[0].test, folder, names)

    def _refreshed(self, encoder: State) -> State:
        """The encoder, its batch norms measured anew on all tasks' images: their merged statistics mean little."""
        if not batch_norms(self.modules[0]):
            return encoder
        images = chain.from_iterable(parts.batches(self.num_rows) for parts in self.parts)
        module = with_encoder(self.modules[0].cpu(), encoder)
        return encoder_state(recalibrate(module, (batch for batch, _ in images)))


def _encoders(modules: Sequence[nn.Module]) -> list[dict[str, Tensor]]:
    return [{name: t.clone() for name, t in encoder_state(module).items()} for module in modules]


def _clip_parts(task: ClipTask, config: "ClipMergedConfig", work: Workspace) -> TaskData:
    labelled = LabelledConfig(source=task.train, validation_share=config.validation_share, seed=config.seed)
    return TaskData(*open_labelled(labelled, work.data_root), open_source(task.test, work.data_root))
