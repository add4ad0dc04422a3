"""What can be requested of a cluster: as much as it has, or can grow to; more is refused before anything runs."""

import re
import sys

import pytest
import ray
from ray._private.worker import global_worker
from ray._raylet import GCS_AUTOSCALER_STATE_NAMESPACE, GCS_AUTOSCALER_V2_ENABLED_KEY
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

from amalgam.pipeline.engine.ray.cluster import check_room, connected
from amalgam.pipeline.engine.ray.growth import declared_growth
from amalgam.pipeline.engine.step import Resources, Step

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def machine():
    """One with two cores and no GPU."""
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def growing():
    """As a cluster of `ray up`: it tells that it grows, and not how far."""
    key, space = GCS_AUTOSCALER_V2_ENABLED_KEY.encode(), GCS_AUTOSCALER_STATE_NAMESPACE.encode()
    _internal_kv_put(key, b"1", namespace=space)
    yield
    _internal_kv_del(key, namespace=space)


@pytest.fixture
def declared():
    """As a cluster that tells how far it grows; returns the function by which it does."""

    def declare(**max_count: int) -> None:
        kinds = {"head": {"CPU": 4}, "gpu": {"CPU": 8, "GPU": 2}}
        groups = [NodeGroupConfig(resources=kinds[kind], max_count=count) for kind, count in max_count.items()]
        global_worker.gcs_client.report_cluster_config(ClusterConfig(node_group_configs=groups).SerializeToString())

    yield declare
    global_worker.gcs_client.report_cluster_config(ClusterConfig().SerializeToString())


@pytest.mark.parametrize(
    ("resources", "values"),
    [
        (Resources(num_gpus=1), r"1 GPUs, .* more than 0.*--num-gpus walk=0\)"),
        (Resources(num_cpus=3), r"3 CPUs, .* more than 2.*--num-cpus walk=2\)"),
        (
            Resources(memory_gb=10**6),
            r"requests 1e\+06 GB of memory, but no machine has more than .*--memory walk=",
        ),
        (
            Resources(num_workers=3),
            r"3 processes with 1 CPUs each, .* room for 2.*--num-workers walk=2\)",
        ),
    ],
)
def test_what_a_cluster_that_does_not_grow_lacks_is_refused(resources, values):
    step = Step("walk", "tests.pipeline.example:walk", resources=resources)
    with pytest.raises(ValueError, match=f"'walk'.*{values}"), connected(None, [step]):
        pass


def test_as_much_as_there_is_can_be_had():
    for resources in (Resources(num_cpus=2), Resources(num_workers=2), Resources(num_cpus=0.1, num_workers=20)):
        check_room(resources, "walk")


def test_a_cluster_that_grows_to_an_unknown_size_is_waited_for_with_a_message(growing, capsys):
    check_room(Resources(num_gpus=1, num_workers=2), "tuned")
    assert re.search("'tuned'.* 1 GPUs, .* more than 0 yet: waiting", capsys.readouterr().out)


def test_a_cluster_that_says_how_far_it_grows_is_taken_at_its_word(declared, growing):
    declared(head=1, gpu=4)
    check_room(Resources(num_gpus=0.25, num_workers=32), "tuned")
    for too_much, sentence in (
        (Resources(num_gpus=1, num_workers=9), r"room for 8.*--num-workers tuned=8"),
        (Resources(num_gpus=2, num_workers=5), r"room for 4"),
        (Resources(num_gpus=3), r"no machine has more than 2"),
        (Resources(num_cpus=9), r"no machine has more than 8"),
    ):
        with pytest.raises(ValueError, match=sentence):
            check_room(too_much, "tuned")


def test_what_a_cluster_declares_is_read_from_this_ray(declared, growing):
    """Fails where a new Ray has moved what `declared_growth` reads from its inner modules."""
    declared(head=1, gpu=-1)
    assert declared_growth() == ([(1, {"CPU": 4}), (sys.maxsize, {"CPU": 8, "GPU": 2})], True)
    declared()
    assert declared_growth() == ([], True)


def test_an_unlimited_number_of_machines_has_room_for_any_number_of_processes(declared):
    declared(gpu=-1)
    check_room(Resources(num_gpus=2, num_workers=10**6), "tuned")
    with pytest.raises(ValueError, match="no machine has more than 2"):
        check_room(Resources(num_gpus=3), "tuned")
