"""The networks that the checkpoints of one run can be merged to, and which settings validation images choose."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.checkpoints import load_model, read_spec
from amalgam.pipeline.store.state_files import open_state
from amalgam.pipeline.tracking.history import checkpoint_weights, read_history
from amalgam.tasks.merging.adapters import Adapter, Space, merge_adapters
from amalgam.tasks.merging.merging import merge
from amalgam.tasks.merging.methods.linear import Average
from amalgam.tasks.merging.multitask.data import TaskData, accuracy, task_data
from amalgam.tasks.merging.multitask.heads import encoder_state, with_encoder
from amalgam.tasks.merging.multitask.lora import folded
from amalgam.tasks.merging.weights.providers import MWA, Uniform, exponential_weights

if TYPE_CHECKING:
    from amalgam.pipeline.steps.merging.checkpoints import CheckpointsConfig

State = dict[str, Tensor]
LOSS, ACCURACY = "validation/nll", "validation/accuracy"


@dataclass(frozen=True)
class Choice:
    """A merge with the settings of highest validation accuracy."""

    state: State
    """The encoder."""
    validation: float
    settings: dict[str, float]


@dataclass(frozen=True)
class CheckpointBench:
    """The last checkpoints of a run, their metrics, and what networks are scored on."""

    module: nn.Module
    """With the head that all checkpoints share."""
    base: State
    """Its encoder before the run."""
    checkpoints: Sequence[Mapping[str, Tensor]]
    """Oldest first: encoders, or adapters."""
    metrics: Mapping[str, Mapping[int, float]]
    """By step, those of the run."""
    config: "CheckpointsConfig"
    scaling: float | None
    """Of adapters; None of whole encoders."""
    parts: TaskData
    device: str

    @classmethod
    def opened(cls, config: "CheckpointsConfig", folder: Path, work: Workspace) -> "CheckpointBench":
        """Read the run's folder. Raises ValueError if it has fewer checkpoints than are to be merged."""
        run, files = config.run, sorted(folder.glob("epoch-*.safetensors"))
        if len(files) < config.last:
            raise ValueError(f"{config.last} checkpoints are to be merged, but the run has {len(files)} epochs")
        module = load_model(folder)
        shape = read_spec(folder).in_shape
        parts = task_data(run.task, shape, run.validation_share, run.seed, work.data_root)
        base = {name: tensor.clone() for name, tensor in encoder_state(module).items()}
        metrics = {name: read_history(str(folder / "history.parquet"), name) for name in (LOSS, ACCURACY)}
        scaling = None if run.lora_rank is None else run.lora_alpha / run.lora_rank
        states = [dict(open_state(file)) for file in files[-config.last :]]
        return cls(module, base, states, metrics, config, scaling, parts, work.device)

    def chosen(self) -> dict[str, Choice]:
        """By label: the last, the best, and every merge; in factors and in products where they are adapters."""
        count = len(self.checkpoints)
        accuracies = [self.metrics[ACCURACY][step] for step in sorted(self.metrics[ACCURACY])[-count:]]
        best = max(range(count), key=accuracies.__getitem__)
        found = {
            "last": self._best([({}, _only(count - 1, count))], "product"),
            "best": self._best([({}, _only(best, count))], "product"),
        }
        spaces: tuple[Space, ...] = ("product",) if self.scaling is None else ("product", "factors")
        for space in spaces:
            for label, tried in self._rules():
                name = label if self.scaling is None else f"{label}, {space}"
                found[name] = self._best(tried, space)
        return found

    def test(self, encoder: State) -> float:
        """Accuracy on test images."""
        return accuracy(with_encoder(self.module, encoder), self.parts.test, device=self.device)

    def _rules(self) -> Iterator[tuple[str, list[tuple[dict[str, float], tuple[float, ...]]]]]:
        """Labels, and the weights that each may choose from with their settings."""
        count, config = len(self.checkpoints), self.config
        yield "uniform", [({}, Uniform()(count))]
        yield "EMA", [({"decay": decay}, exponential_weights(count, decay)) for decay in config.decays]
        kinds: tuple[Literal["loss", "step"], ...] = ("loss", "step")
        for by in kinds:
            rules = [MWA(by=by, penalty=penalty) for penalty in config.penalties]
            yield (
                f"MWA {by}",
                [({"penalty": r.penalty}, checkpoint_weights(self.metrics[LOSS], r, count)) for r in rules],
            )

    def _best(self, tried: Sequence[tuple[dict[str, float], tuple[float, ...]]], space: Space) -> Choice:
        found = []
        for settings, weights in tried:
            state = self._merged(weights, space)
            found.append(Choice(state, self._validate(state), settings))
        return max(found, key=lambda choice: choice.validation)

    def _merged(self, weights: tuple[float, ...], space: Space) -> State:
        if self.scaling is None:
            return merge(None, self.checkpoints, Average(weights=weights))
        adapters = [Adapter(state, self.scaling) for state in self.checkpoints]
        merged = merge_adapters(adapters, Average(weights=weights), space)
        return folded(self.base, Adapter(merged.state, merged.scaling))

    def _validate(self, encoder: State) -> float:
        parts = self.parts
        return accuracy(with_encoder(self.module, encoder), parts.train, parts.validation, self.device)


def _only(place: int, count: int) -> tuple[float, ...]:
    return tuple(float(other == place) for other in range(count))
