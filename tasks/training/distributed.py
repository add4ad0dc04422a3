"""Several processes that train one network: which images each of them takes, and how their gradients become one.

They communicate through torch.distributed's default group (gloo on CPUs, NCCL on GPUs), which the caller opens. A
batch is that of all processes together, so that a run by two is the run by one but for the order of sums.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 1 << 23  # numbers sent at once: few enough to need little memory, many enough to be worth a message


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together; by default it is alone."""

    rank: int = 0
    """Which of them this is, from 0."""
    size: int = 1
    """How many there are."""

    @classmethod
    def joined(cls) -> "ProcessGroup":
        """The processes of torch.distributed's default group."""
        return cls(dist.get_rank(), dist.get_world_size())

    def check(self, batch_size: int) -> None:
        """Raise ValueError if a batch cannot be shared out evenly."""
        if batch_size % self.size:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes ({self.size}), got {batch_size}"
            )

    def part(self, count: int) -> slice:
        """Which of `count` examples this process takes: a contiguous share, but at least one for each to compute on."""
        start, stop = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(start, stop) if stop > start else slice(0, 1)

    def weight(self, count: int) -> float:
        """What share of `count` examples is this process's own: 0 where it computes on one of another's."""
        start, stop = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return (stop - start) / count

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all processes."""
        total = numbers.clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def sum_gradients(self, module: nn.Module) -> None:
        """Replace the gradients of a module by their sums over all processes."""
        if self.size > 1:
            for bucket in _buckets(p.grad for p in module.parameters() if p.grad is not None):
                self._sum_in_place(bucket)

    def mean_statistics(self, module: nn.Module) -> None:
        """Replace what layers have counted for themselves, as batch norm does, by the means over all processes."""
        if self.size > 1:
            for buffer in (b for b in module.buffers() if b.is_floating_point()):
                buffer.copy_(self.sum(buffer) / self.size)

    def _sum_in_place(self, tensors: list[Tensor]) -> None:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Lists of tensors of one number format that together are not much larger than a bucket."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or sum(each.numel() for each in bucket) >= BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


ALONE = ProcessGroup()
