"""Exact assignment of some rows of a cost matrix to columns, and the slots of a universe that follow from it."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MAX_TRIALS = 40  # bisections of the price that double precision can tell apart

Pairs = tuple[np.ndarray, np.ndarray]
"""Rows and columns of disjoint pairs."""


def cheapest_pairs(cost: np.ndarray, num_pairs: int, price: float | None = None) -> Pairs:
    """Rows and columns of the `num_pairs` disjoint pairs of least total cost (k-cardinality assignment, exact).

    `price` is a guess of what the dearest pair may cost, such as its cost in an earlier assignment; it changes the
    time, not the total.
    """
    if num_pairs == 0:
        return np.empty(0, int), np.empty(0, int)
    if num_pairs == min(cost.shape):
        return linear_sum_assignment(cost)
    if price is None:
        price = float(np.partition(cost.min(1), num_pairs - 1)[num_pairs - 1])
    found = _at_some_price(cost, num_pairs, price)
    return found if found is not None else _with_dummies(cost, num_pairs)


def _at_some_price(cost: np.ndarray, num_pairs: int, price: float) -> Pairs | None:
    """The pairs, by a search for a price at which just so many are worth it; None if ties leave no such price."""
    # Least (total - price * number of pairs) over all matchings: if the best has k pairs, no other k pairs are cheaper
    # in total. It is one assignment of min(cost - price, 0), in which few rows compete, unlike one with dummies. Total
    # cost is convex in k, so that the number of pairs rises with the price.
    (low, fewer), (high, more) = (float(cost.min()), 0), (float(cost.max()), min(cost.shape))
    lowest, highest, step = low, high, 0.0
    for _ in range(MAX_TRIALS):
        worth = np.minimum(cost - price, 0.0)
        rows, columns = linear_sum_assignment(worth)
        real = worth[rows, columns] < 0
        rows, columns = rows[real], columns[real]
        if len(rows) == num_pairs:
            return rows, columns
        if len(rows) < num_pairs:
            low, fewer = price, len(rows)
        else:
            high, more = price, len(rows)
        # A wrong guess is near: look there, in growing steps, before the interval is divided.
        spread = float(cost[rows, columns].std()) if len(rows) else 0.0
        step = 2 * step or 2 * spread * (abs(len(rows) - num_pairs) + 1) / min(cost.shape)
        if low == lowest or high == highest:
            price = max(high - step, (low + high) / 2) if low == lowest else min(low + step, (low + high) / 2)
        else:
            price = low + (high - low) * min(max((num_pairs - fewer) / (more - fewer), 0.1), 0.9)
    return None


def _with_dummies(cost: np.ndarray, num_pairs: int) -> Pairs:
    """The pairs by one square assignment: each side gets as many free dummies as it may leave unmatched."""
    num_rows, num_columns = cost.shape
    # Each of the (columns - k) dummy rows takes a real column, as it may not meet a dummy column: k pairs stay real.
    extended = np.zeros((num_rows + num_columns - num_pairs,) * 2)
    extended[:num_rows, :num_columns] = cost
    extended[num_rows:, num_columns:] = np.inf
    rows, columns = linear_sum_assignment(extended)
    real = (rows < num_rows) & (columns < num_columns)
    return rows[real], columns[real]


@dataclass(frozen=True)
class Move:
    """What one member's new places in the slots of a group change."""

    slots: Tensor
    """(members, slots) unit indices."""
    order: Tensor
    """(slots,): which of the old slots each is."""
    gain: float
    """What matched slots cost less now."""


def reassigned(slots: Tensor, cost: Tensor, mover: int, num_matched: int) -> Move:
    """The slots (members, slots) after `mover` took its cheapest places; `cost` is (units of the mover, slots)."""
    table, now = cost.numpy(), slots[mover, :num_matched].numpy()
    # A mover has no units yet (-1) in the greedy pass.
    paid = table[now, np.arange(num_matched)] if (now >= 0).all() else None
    # The best k pairs first, on their own: the k cheapest pairs of a full assignment can cost more than these.
    units, places = cheapest_pairs(table, num_matched, paid.max() if paid is not None and num_matched else None)
    left_units = np.setdiff1d(np.arange(table.shape[0]), units)
    left_places = np.setdiff1d(np.arange(table.shape[1]), places)
    # Then the rest among itself. It pays nothing, but every slot stays filled, so that the next alpha of a sweep, or
    # another member, finds in the slots behind the matched ones who would come next.
    rest_units, rest_places = cheapest_pairs(table[np.ix_(left_units, left_places)], len(left_places))
    order = torch.from_numpy(np.concatenate([places, left_places[rest_places]]))
    # Slots are reordered for all members alike, which changes no match; only then does the mover get its new units.
    moved = slots[:, order].clone()
    moved[mover] = torch.from_numpy(np.concatenate([units, left_units[rest_units]]))
    # Only matched slots enter the objective; who had no units gains without bound.
    gain = paid.sum() - table[units, places].sum() if paid is not None else np.inf
    return Move(moved, order, float(gain))
