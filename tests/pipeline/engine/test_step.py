"""Laws of a step's identity: it is what changes the result, all of it, and nothing else."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from amalgam.pipeline.engine.step import Resources, Step, ancestors, with_resources
from amalgam.pipeline.store.canonical import canonical, canonical_json

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
KEYS = st.text(max_size=8).filter(lambda key: key != "class")
CONFIGS = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=6), max_size=4
)


class Left(BaseModel):
    alpha: float


class Right(BaseModel):
    alpha: float


@dataclass(frozen=True)
class Wrapped:
    method: BaseModel


def step(config: object = None, name: str = "work", **rest: object) -> Step:
    return Step(name, "somewhere:function", config or {}, **rest)


@given(CONFIGS)
def test_the_order_of_keys_is_not_part_of_the_identity(config):
    assert step(dict(reversed(config.items()))).fingerprint == step(config).fingerprint


@given(CONFIGS, CONFIGS)
def test_configs_that_read_differently_have_different_fingerprints(one, other):
    same = canonical_json(one) == canonical_json(other)
    assert (step(one).fingerprint == step(other).fingerprint) == same


@given(CONFIGS)
def test_canonical_text_is_json_that_means_the_config(config):
    assert json.loads(canonical_json(config)) == config


def test_where_and_how_fast_is_not_part_of_the_identity():
    usual = step({"seed": 1})
    fast = step({"seed": 1}, resources=Resources(num_cpus=64, num_gpus=8))
    assert usual.fingerprint == fast.fingerprint
    assert usual.path(Path("/here")).name == usual.path(Path("/there")).name == usual.key


def test_name_version_config_and_inputs_are_the_identity():
    first, second = step({"seed": 1}), step({"seed": 2})
    steps = [
        first,
        second,
        step({"seed": 1}, name="other"),
        step({"seed": 1}, version=2),
        step({"seed": 1}, inputs={"member": first}),
        step({"seed": 1}, inputs={"member": second}),
        step({"seed": 1}, inputs={"teacher": first}),
        step({"seed": 1}, inputs={"member": (first,)}),
        step({"seed": 1}, inputs={"member": (first, second)}),
        step({"seed": 1}, inputs={"member": (second, first)}),
    ]
    assert len({each.fingerprint for each in steps}) == len(steps)


def test_classes_with_equal_fields_have_different_fingerprints():
    assert step(Wrapped(Left(alpha=0.5))).fingerprint != step(Wrapped(Right(alpha=0.5))).fingerprint
    assert canonical(Wrapped(Left(alpha=1)))["method"] == {"class": "Left", "alpha": 1.0}


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), Path("file"), lambda: None, {1: "one"}, {"class": "A"}])
def test_values_without_a_stable_text_form_are_refused_by_the_name_of_their_field(value):
    with pytest.raises(TypeError, match=r"step 'work'\.config\.outer\.inner"):
        step({"outer": {"inner": value}})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match=r"config\.rates\[1\]"):
        step({"rates": [0.1, value]})


def test_ancestors_come_inputs_first_and_once():
    data = step(name="data")
    members = tuple(step({"seed": seed}, "member", inputs={"data": data}) for seed in range(3))
    twin = step({"seed": 0}, "member", inputs={"data": step(name="data")})
    report = step(name="report", inputs={"members": (*members, twin), "data": data})
    assert [each.key for each in ancestors([report, report])] == [each.key for each in (data, *members, report)]


def test_one_fingerprint_with_two_functions_is_an_error():
    with pytest.raises(ValueError, match="name them differently"):
        ancestors([Step("work", "here:function"), Step("work", "there:function")])


def test_new_resources_leave_every_fingerprint_of_the_graph():
    member = step({"seed": 1}, "member")
    report = step(name="report", inputs={"members": (member,)})
    [changed] = with_resources([report], lambda each: Resources(num_gpus=0.5 if each.name == "member" else 0))
    assert [each.key for each in ancestors([changed])] == [member.key, report.key]
    assert [each.resources.num_gpus for each in ancestors([changed])] == [0.5, 0]
