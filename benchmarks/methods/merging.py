"""Merging files tensor by tensor, beside reading them; Fisher information beside plain gradients; EpiMer's solve.

*Files*: a base and eight members of a ViT-B's shapes (86 million random numbers each, 346 MB), averaged and merged by
TIES as `amalgam merge` does, result written, in a process of its own whose memory is measured. *Reading* is the same
files read whole, once through a buffer. The files are dropped from the page cache before each, where the system allows
that; what a disk can cache itself stays. *Fisher*: squared gradients of single examples, against one forward and
backward pass of the batch. *EpiMer*: one 768 x 3072 matrix of eight tasks at rank 32, its projections included.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from amalgam.pipeline.engine.host import threads
from amalgam.pipeline.store.state_files import write_safetensors
from amalgam.tasks.merging.geometry.curved import curved_task_vector
from amalgam.tasks.merging.geometry.parameter import Parameter
from amalgam.tasks.merging.methods.curvature import EpiMer
from amalgam.tasks.merging.staged import Statistics
from amalgam.tasks.merging.statistics.fisher import Estimator, fisher_sums
from benchmarks.measure import Measure, report, seconds

BUFFER = 2**24  # bytes
MERGE = """
import resource, sys, time
from pathlib import Path
from amalgam.pipeline.cli.from_files.merge_files import MergeRequest, merge_files
from amalgam.tasks.merging import find_merge_method
method, out, *files = sys.argv[1:]
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
merge_files(MergeRequest(tuple(map(Path, files)), find_merge_method(method)(), has_base=True, out=Path(out)))
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def measure(width: int = 768, depth: int = 12, members: int = 8, rank: int = 32, images: int = 256) -> list[Measure]:
    """Seconds and memory of merges, and their bounds."""
    with threads(1), tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{place}.safetensors" for place in range(members + 1)]
        for place, file in enumerate(files):
            write_vit(file, width, depth, seed=place)
        size = files[0].stat().st_size
        reading = seconds(lambda: read_whole(files[1:]))
        averaging, memory = merged("average", Path(folder) / "mean", files)
        ties, ties_memory = merged("ties", Path(folder) / "ties", files)
        return [
            Measure(f"reading {members} members of {size / 1e6:.0f} MB", reading, "s"),
            Measure("averaging them, result written", averaging, "s"),
            Measure("averaging over reading", averaging / reading, "x", at_most=1.25),
            Measure("memory of averaging, in models", memory / size, "models", at_most=2),
            Measure("TIES over averaging", ties / averaging, "x", at_most=3),
            Measure("memory of TIES, in models", ties_memory / size, "models", at_most=2),
            *fishers(images),
            *epimer(width, members, rank),
        ]


def write_vit(file: Path, width: int, depth: int, seed: int) -> None:
    """Random weights of a ViT's shapes."""
    shapes = {"patch_embed.weight": (width, 3, 16, 16), "pos_embed": (1, 197, width), "head.weight": (1000, width)}
    for block in range(depth):
        shapes |= {
            f"blocks.{block}.attn.qkv.weight": (3 * width, width),
            f"blocks.{block}.attn.proj.weight": (width, width),
            f"blocks.{block}.mlp.fc1.weight": (4 * width, width),
            f"blocks.{block}.mlp.fc2.weight": (width, 4 * width),
            f"blocks.{block}.norm.weight": (width,),
        }
    generator = torch.Generator().manual_seed(seed)
    meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    write_safetensors(file, meta, ((n, torch.randn(shape, generator=generator)) for n, shape in shapes.items()))
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def forget(files: Sequence[Path]) -> None:
    """Ask the system to drop the files from its page cache."""
    for file in files:
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_whole(files: Sequence[Path]) -> None:
    """Every byte of the files, once."""
    forget(files)
    buffer = bytearray(BUFFER)
    for file in files:
        with file.open("rb", buffering=0) as handle:
            while handle.readinto(buffer):
                pass


def merged(method: str, out: Path, files: Sequence[Path]) -> tuple[float, float]:
    """Seconds of a merge in a process of its own, and the bytes by which it grew."""
    forget(files)
    command = [sys.executable, "-c", MERGE, method, str(out), *map(str, files)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    duration, kilobytes = done.stdout.split()
    return float(duration), float(kilobytes) * 1024


def fishers(images: int) -> list[Measure]:
    """Fisher information of a batch over one forward and backward pass of it; exact takes one backward pass a class."""
    torch.manual_seed(0)
    x, y = torch.randn(images, 1, 28, 28), torch.randint(10, (images,))
    perceptron = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 10)
    )
    convolutions = nn.Sequential(
        nn.Conv2d(1, 32, 3, 2), nn.GELU(), nn.Conv2d(32, 64, 3, 2), nn.GELU(), nn.Flatten(), nn.Linear(2304, 10)
    )
    empirical, exact = over_a_pass(perceptron, x, y, "empirical"), over_a_pass(perceptron, x, y, "exact")
    return [
        Measure(f"empirical Fisher of an MLP over a pass of {images} images", empirical, "x", at_most=3),
        Measure("exact Fisher of it (10 classes) over a pass", exact, "x"),
        Measure("exact Fisher of it over a pass, per class", exact / 10, "x", at_most=3),
        Measure(
            "empirical Fisher of a convolutional network over a pass", over_a_pass(convolutions, x, y, "empirical"), "x"
        ),
    ]


def over_a_pass(module: nn.Module, x: Tensor, y: Tensor, estimator: Estimator) -> float:
    """Seconds of the estimator over those of a forward and backward pass, the best of several each."""
    plain = min(seconds(lambda: nn.functional.cross_entropy(module(x), y).backward()) for _ in range(7))
    return min(seconds(lambda: fisher_sums(module, [(x, y)], estimator)) for _ in range(5)) / plain


def epimer(width: int, tasks: int, rank: int) -> list[Measure]:
    """Seconds of one matrix, and billions of multiplications that its projections take in a second."""
    generator = torch.Generator().manual_seed(0)
    base, *members = torch.randn(tasks + 1, width, 4 * width, generator=generator)
    fisher = tuple({"w": torch.rand(width, 4 * width, generator=generator)} for _ in range(tasks))
    taken = seconds(
        lambda: curved_task_vector(Parameter("w", base, members, Statistics(fisher=fisher)), EpiMer(rank=rank))
    )
    atoms = min(rank, width // tasks) * tasks
    work = tasks * width * 4 * width * atoms**2
    return [
        Measure(f"EpiMer of {tasks} matrices {width} x {4 * width} at rank {rank}", taken, "s"),
        Measure("its multiplications by count, in a second", work / taken / 1e9, "billions"),
    ]


if __name__ == "__main__":
    report(__doc__, measure, tiny={"width": 32, "depth": 2, "members": 2, "rank": 4, "images": 8})
