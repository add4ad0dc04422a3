"""The documentation lists every method, with its paper and its settings."""

from pathlib import Path

import pytest

from amalgam.tasks.merging import MERGE_METHODS

PAGE = Path(__file__).parents[3] / "docs" / "merging.md"


@pytest.mark.parametrize("kind", MERGE_METHODS, ids=lambda kind: kind.__name__)
def test_the_table_has_a_row_for_every_method(kind):
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{kind.__name__}` |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert (
        cells[2] == ("yes" if kind.needs_base else "no") and cells[3] == (kind().need or "-") and cells[5] == kind.paper
    )
    assert all(f"`{name}`" in cells[4] for name in kind.model_fields)
