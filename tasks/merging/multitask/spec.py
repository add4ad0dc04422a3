"""A task by its text: a data set, perhaps turned, mirrored or inverted. Importable without torch."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.user_names import unknown_name

CHANGES = ("turn1", "turn2", "turn3", "mirrored", "inverted")


class TaskSpec(BaseModel):
    """What the pictures of a task are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataSpec
    turns: int = Field(default=0, ge=0, le=3)
    """Quarter turns of every picture, against the clock."""
    mirrored: bool = False
    """Whether left and right are exchanged, before the turn."""
    inverted: bool = False
    """Whether dark and bright are exchanged."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """`digits+turn1+inverted`: a data set's name, then changes. Raises ValueError for an unknown change."""
        name, *changes = text.split("+")
        for change in changes:
            if change not in CHANGES:
                raise unknown_name("change of pictures", change, CHANGES)
        turns = sum(int(change.removeprefix("turn")) for change in changes if change.startswith("turn"))
        return cls(
            data=DataSpec(name=name), turns=turns % 4, mirrored="mirrored" in changes, inverted="inverted" in changes
        )

    @property
    def name(self) -> str:
        """What `parse` takes."""
        turn = [f"turn{self.turns}"] if self.turns else []
        return "+".join([self.data.name, *turn, *["mirrored"] * self.mirrored, *["inverted"] * self.inverted])
