"""KnOTS: task matrices in a common basis, merged there."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from amalgam.tasks.merging.methods.method import MatrixMethod, Share

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class KnOTS(MatrixMethod):
    """One basis of outputs for all tasks, the singular vectors of their matrices side by side; TIES merges the rest.

    Meant for LoRA products, whose few directions differ between the tasks.
    """

    paper: ClassVar[str] = "Model merging with SVD to tie the KnOTS, Stoica et al. 2024, arXiv 2410.19735"

    density: Share = 0.2
    """Share of the entries of each task's part that is kept, largest first; 1 keeps all."""

    def matrix(self, parameter: Parameter) -> Tensor:
        import torch

        from amalgam.tasks.merging.geometry.bases import signed_svd
        from amalgam.tasks.merging.geometry.signs import elect, trimmed

        left, values, right = signed_svd(torch.cat(list(parameter.deltas), dim=1))
        parts = right.T.chunk(len(parameter.members), dim=1)
        return (left * values) @ elect([trimmed(part, self.density) for part in parts])
