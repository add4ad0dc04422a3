"""Run one training by several processes at once, on this machine or on a cluster, through Ray Train.

Each process gets its place among the others and joins them through torch.distributed: NCCL where each has a GPU,
else gloo. What is arranged here is who runs; `tasks.training.loop.train(..., processes=...)` does the training.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from amalgam.pipeline.engine.host import threads
from amalgam.pipeline.engine.ray.cluster import GB, check_room, connected
from amalgam.pipeline.engine.step import Resources
from amalgam.tasks.training.distributed import ProcessGroup

Outcome = Mapping[str, float | int | str]
NAME = "ray_train"  # folder of Ray's own notes, in the scratch folder of the step
PATIENCE = 600  # seconds a process waits for the others, which may be reading data


def run_distributed(function: Callable[[ProcessGroup, str], Outcome], resources: Resources, scratch: Path) -> Outcome:
    """What `function(processes, device)` gives in the first of `resources.num_workers` processes that call it together.

    The function must be importable where workers run, or pickle, and gives plain values; what is larger its first
    process writes to a file. `scratch` is a folder that all of them see. Connects to Ray as
    `pipeline.engine.ray.cluster.connected` does, unless that is done. If one process fails all are ended: raises the
    ValueError of a process as it is, ValueError if there can never be room for so many processes, and OSError for any
    other failure, so that the step is tried again: a function that saves its state and looks for it goes on.
    """
    with connected(None, []):
        check_room(resources)
        worker: Any = _Worker(function, resources.num_cpus)  # Ray's annotation knows of no result
        trainer = TorchTrainer(
            worker,
            torch_config=TorchConfig(backend=_backend(resources.num_gpus), timeout_s=PATIENCE),
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu=resources.num_gpus > 0,
                resources_per_worker={
                    "CPU": resources.num_cpus,
                    "GPU": resources.num_gpus,
                    "memory": resources.memory_gb * GB,
                },
            ),
            run_config=RunConfig(name=NAME, storage_path=str(scratch.absolute())),
        )
        try:
            result: Any = trainer.fit()
        except TrainingFailedError as failed:
            raise _cause(failed) from failed
    outcome: Outcome = result.return_value
    return outcome


def _backend(num_gpus: float) -> str:
    return "nccl" if num_gpus >= 1 else "gloo"  # NCCL refuses processes that share a GPU


class _Worker:
    """What every process runs."""

    def __init__(self, function: Callable[[ProcessGroup, str], Outcome], cpus: float) -> None:
        self.function, self.cpus = function, cpus

    def __call__(self) -> Outcome:
        with threads(max(1, int(self.cpus))):
            return self.function(ProcessGroup.joined(), str(get_device()))


def _cause(failed: TrainingFailedError) -> Exception:
    """The ValueError that every process raised, if a user can mend the failure; else what makes a step be retried.

    A lost process and one with a bug look alike to the others, which report that their connection was closed.
    """
    failures: dict[int, Exception] = getattr(failed, "worker_failures", {})
    errors = [error for _, error in sorted(failures.items()) if isinstance(error, ValueError)]
    return errors[0].with_traceback(None) if errors else OSError(f"a training process died: {failed}")
