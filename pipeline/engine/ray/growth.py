"""How far a Ray cluster can grow. Ray has no public way to ask: its inner modules are imported here and nowhere else.

`tests/pipeline/engine/ray/test_cluster.py` compares what is read here with what a cluster declared: a new Ray that has
moved or changed these names fails there by name, before a user meets it.
"""

import sys
from collections.abc import Mapping

import ray


def declared_growth() -> tuple[list[tuple[float, Mapping[str, float]]], bool]:
    """The groups of machines that the cluster may grow to, each as its count and resources, and whether it may grow.

    No groups where the cluster declares none, as those of `ray up`: of them it is known only that they grow.
    """
    try:
        from ray._private.state import state
        from ray.autoscaler.v2.utils import is_autoscaler_v2

        config = state.get_cluster_config()
        groups = config.node_group_configs if config else ()
        found = [(_number(group.max_count), _resources(group.resources)) for group in groups]
        return found, bool(found) or is_autoscaler_v2(fetch_from_server=True)
    except (ImportError, AttributeError, TypeError) as error:
        message = (
            f"Ray {ray.__version__} has changed the internal API that gives the largest size of a cluster: {error}"
        )
        raise RuntimeError(message) from error


def _resources(resources: Mapping[str, float]) -> Mapping[str, float]:
    return {kind: _number(has) for kind, has in resources.items()}


def _number(count: float) -> float:
    return sys.maxsize if count < 0 else count  # -1 is how Ray writes that there is no limit
