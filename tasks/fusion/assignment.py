"""Exact assignment of some rows of a cost matrix to columns, and the slots of a universe that follow from it."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def cheapest_pairs(cost: np.ndarray, num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the `num_pairs` disjoint pairs of least total cost (k-cardinality assignment, exact).

    Each side gets as many free dummies as it may leave unmatched, and dummies may not meet: a square assignment.
    """
    num_rows, num_columns = cost.shape
    if num_pairs == 0:
        return np.empty(0, int), np.empty(0, int)
    # Each of the (columns - k) dummy rows takes a real column, as it may not meet a dummy column: k pairs stay real.
    extended = np.zeros((num_rows + num_columns - num_pairs,) * 2)
    extended[:num_rows, :num_columns] = cost
    extended[num_rows:, num_columns:] = np.inf
    rows, columns = linear_sum_assignment(extended)
    real = (rows < num_rows) & (columns < num_columns)
    return rows[real], columns[real]


def reassigned(slots: Tensor, cost: Tensor, mover: int, num_matched: int) -> tuple[Tensor, float]:
    """The slots (members, slots) after `mover` took its cheapest places, and what matched ones cost less now.

    `cost` is (units of the mover, slots).
    """
    table = cost.numpy()
    # The best k pairs first, on their own: the k cheapest pairs of a full assignment can cost more than these.
    units, places = cheapest_pairs(table, num_matched)
    # Then the rest among itself. It pays nothing, but every slot stays filled, so that the next alpha of a sweep finds
    # in the slots behind the matched ones who would come next.
    left_units = np.setdiff1d(np.arange(table.shape[0]), units)
    left_places = np.setdiff1d(np.arange(table.shape[1]), places)
    rest_units, rest_places = cheapest_pairs(table[np.ix_(left_units, left_places)], len(left_places))
    order = np.concatenate([places, left_places[rest_places]])
    # Slots are reordered for all members alike, which changes no match; only then does the mover get its new units.
    moved = slots[:, torch.from_numpy(order)].clone()
    moved[mover] = torch.from_numpy(np.concatenate([units, left_units[rest_units]]))
    now = slots[mover, :num_matched].numpy()
    # Only matched slots enter the objective; a mover without units yet (-1, in the greedy pass) gains without bound.
    gain = table[now, np.arange(num_matched)].sum() - table[units, places].sum() if (now >= 0).all() else np.inf
    return moved, float(gain)
