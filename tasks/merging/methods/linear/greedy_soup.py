"""The mean of those members that do not lower a validation score."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from amalgam.tasks.merging.methods.method import MergeMethod, Need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from amalgam.tasks.merging.staged import State, Statistics


class GreedySoup(MergeMethod):
    """Members join, best first, while the score of their mean does not fall; statistics give the score."""

    paper: ClassVar[str] = "Model soups, recipe 1, Wortsman et al. 2022, arXiv 2203.05482"
    needs_base: ClassVar[bool] = False
    keeps_order: ClassVar[bool] = True
    by_tensor: ClassVar[bool] = False

    @property
    def need(self) -> Need | None:
        return "score"

    def whole(self, base: State | None, members: Sequence[State], statistics: Statistics) -> dict[str, Tensor]:
        """The merged network."""
        from amalgam.tasks.clip.finetuning.interpolate import greedy_soup

        assert statistics.score is not None
        return greedy_soup(members, statistics.score)
