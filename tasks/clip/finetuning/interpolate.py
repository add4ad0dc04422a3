"""Weights between and among fine-tuned networks: WiSE-FT paths (Wortsman et al. 2022) and model soups.

Every entry of the state dict takes part, encoder and head; nothing is written.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from amalgam.tasks.training.averaging import State, mean_state


def interpolate(before: State, after: State, alpha: float) -> dict[str, Tensor]:
    """`(1 - alpha) before + alpha after`, as a new state dict; at 0 and 1 the end points, bit for bit."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    return mean_state((before, after), (1 - alpha, alpha))


def soup(states: Sequence[State]) -> dict[str, Tensor]:
    """The uniform soup: the mean of fine-tuned networks that started from the same weights."""
    return mean_state(states)


def greedy_soup(states: Sequence[State], score: Callable[[State], float]) -> dict[str, Tensor]:
    """The greedy soup (Wortsman et al. 2022, recipe 1): networks join, best first, while the score does not fall.

    `score` is accuracy on held-out examples of the training distribution, never of a shift.
    """
    ranked = sorted(states, key=score, reverse=True)
    chosen, best = ranked[:1], score(mean_state(ranked[:1]))
    for state in ranked[1:]:
        reached = score(mean_state([*chosen, state]))
        if reached >= best:
            chosen, best = [*chosen, state], reached
    return mean_state(chosen)
