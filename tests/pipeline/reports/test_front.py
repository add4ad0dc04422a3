"""The front of a frontier: what nothing cheaper is as good as."""

from hypothesis import given
from hypothesis import strategies as st

from amalgam.pipeline.reports.frontier.table import RELATIVE, best_scores, front

COST = RELATIVE + "nonzero_flops"
ROWS = st.lists(
    st.builds(
        lambda kind, cost, accuracy: {"kind": kind, COST: cost, "accuracy": accuracy, "nll": 1 - accuracy},
        st.sampled_from(["member", "fused", "ensemble", "rival"]),
        st.floats(0.5, 8),
        st.floats(0, 1),
    ),
    max_size=12,
)


@given(ROWS)
def test_the_front_rises_and_no_network_is_cheaper_and_better(rows):
    found = front(rows)
    accuracies = [row["accuracy"] for _, row in found]
    assert accuracies == sorted(set(accuracies)) and [cost for cost, _ in found] == sorted(cost for cost, _ in found)
    compared = [row for row in rows if row["kind"] in ("fused", "ensemble")]
    assert all(any(on[COST] <= row[COST] and on["accuracy"] >= row["accuracy"] for _, on in found) for row in compared)
    assert bool(found) == bool(compared)


@given(ROWS)
def test_scores_are_those_of_the_most_accurate_fused_network(rows):
    fused = [row["accuracy"] for row in rows if row["kind"] == "fused"]
    assert best_scores(rows).get("test/accuracy") == max(fused, default=None)
