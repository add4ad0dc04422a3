"""Run one training by several processes at once, on this machine or on a cluster, through Ray Train.

Each process gets its place among the others and joins them through torch.distributed: gloo between CPUs, NCCL between
GPUs. What is arranged here is who runs; `tasks.train.train(..., world=...)` does the training.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from pipeline.cluster import connected
from pipeline.host import threads
from tasks.distributed import World

Outcome = Mapping[str, float | int | str]
NAME = "ray_train"  # folder of Ray's own notes, in the scratch folder of the step
PATIENCE = 600  # seconds a process waits for the others, which may be reading data


def run_distributed(
    function: Callable[[World, str], Outcome],
    num_workers: int,
    scratch: Path,
    *,
    use_gpu: bool = False,
    cpus_per_worker: float = 1,
    max_retries: int = 0,
) -> Outcome:
    """What `function(world, device)` gives in the first of `num_workers` processes that call it together.

    The function must be importable where workers run, or pickle, and gives plain values; what is larger its first
    process writes to a file. `scratch` is a folder that all of them see. If one process fails all are ended, and begun
    again up to `max_retries` times: a function that saves its state and looks for it goes on. Connects to Ray as
    `pipeline.cluster.connected` does, unless that is done. Raises the ValueError of a process as it is, and ValueError
    for fewer than one process or more than there are CPUs or GPUs for.
    """
    if num_workers < 1:
        raise ValueError(f"training needs at least one process, got {num_workers}")
    with connected(None, []):
        _check_room(num_workers, use_gpu, cpus_per_worker)
        worker: Any = _Worker(function, cpus_per_worker)  # Ray's annotation knows of no result
        trainer = TorchTrainer(
            worker,
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=PATIENCE),
            scaling_config=ScalingConfig(
                num_workers=num_workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
            ),
            run_config=RunConfig(
                name=NAME,
                storage_path=str(scratch.absolute()),
                failure_config=FailureConfig(max_failures=max_retries),
            ),
        )
        try:
            result: Any = trainer.fit()
        except TrainingFailedError as failed:
            raise _told(failed) from failed
    outcome: Outcome = result.return_value
    return outcome


class _Worker:
    """What every process runs."""

    def __init__(self, function: Callable[[World, str], Outcome], cpus: float) -> None:
        self.function, self.cpus = function, cpus

    def __call__(self) -> Outcome:
        with threads(max(1, int(self.cpus))):
            return self.function(World.joined(), str(get_device()))


def _check_room(num_workers: int, use_gpu: bool, cpus_per_worker: float) -> None:
    """Raise ValueError if the processes could never all run at once: Ray would wait for ever."""
    offered = ray.cluster_resources()
    for kind, each in (("CPU", cpus_per_worker), ("GPU", float(use_gpu))):
        if num_workers * each > offered.get(kind, 0):
            raise ValueError(
                f"{num_workers} processes with {each:g} {kind}s each need {num_workers * each:g}, but there are "
                f"{offered.get(kind, 0):g}: give fewer processes, or the --address of a cluster"
            )


def _told(failed: TrainingFailedError) -> Exception:
    """The user's mistake, if the failure was one: every process says the same."""
    failures: dict[int, Exception] = getattr(failed, "worker_failures", {})
    mistakes = [error for _, error in sorted(failures.items()) if isinstance(error, ValueError)]
    return mistakes[0].with_traceback(None) if mistakes else failed
