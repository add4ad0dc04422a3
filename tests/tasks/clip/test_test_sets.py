"""A test set says how its answers are read, and one that cannot be read is refused."""

import pytest

from amalgam.tasks.clip.prompts import FMOW_TEMPLATES, IWILDCAM_TEMPLATES, prompt
from amalgam.tasks.clip.testing.test_sets import TestSet, check_test_sets, corrupted_sets
from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.sources import CORRUPTIONS, Stored

SOURCE = Stored(data=DataSpec(name="digits"))


def a_set(**settings) -> TestSet:
    return TestSet(**{"name": "plain", "role": "id", "source": SOURCE} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "seen/plain"}, "without '/', '@' or '='"),
        ({"templates": ("a photo",)}, "has no slot"),
        ({"templates": "opennai"}, "did you mean 'openai'"),
        ({"class_names": ("a", " "), "templates": "simple"}, "class 1 has an empty name"),
        ({"class_names": ("a", "b")}, "no templates to make a head of"),
        ({"columns": ((0,),), "templates": "simple"}, "leave out columns or templates"),
        ({"columns": ((0,), ())}, "columns"),
        ({"role": "forgetting"}, "give templates"),
    ],
)
def test_a_set_that_cannot_be_read_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        a_set(**settings)


def test_every_set_reports_accuracy_and_its_official_metric():
    assert a_set().metrics == ("accuracy",)
    assert a_set(metric="macro_f1").metrics == ("accuracy", "macro_f1")


def test_sets_have_names_of_their_own():
    check_test_sets((a_set(), a_set(name="other")))
    with pytest.raises(ValueError, match="'plain'"):
        check_test_sets((a_set(), a_set()))
    with pytest.raises(ValueError, match="test set"):
        check_test_sets(())


def test_templates_of_the_wilds_are_two_and_sixteen():
    assert (len(IWILDCAM_TEMPLATES), len(set(FMOW_TEMPLATES))) == (2, 16)


def test_a_prompt_takes_the_article_of_its_name():
    assert prompt("aerial photo of a(n) {}.", "airport") == "aerial photo of an airport."
    assert prompt("aerial photo of a(n) {}.", "zoo") == "aerial photo of a zoo."
    assert prompt("a photo of a {}.", "a(n) {}") == "a photo of a a(n) {}."


def test_corruptions_are_of_the_set_like_those_of_fine_tuning_and_read_as_it_is():
    clean = a_set(columns=((1,), (0, 2)), metric="macro_f1")
    found = corrupted_sets((clean, a_set(name="bold", role="seen")), ("fog", "snow"), (1, 5))
    assert [each.name for each in found] == ["fog-1", "fog-5", "snow-1", "snow-5"]
    assert all(each.role == "unseen" and each.source.source == SOURCE for each in found)
    assert all((each.columns, each.metric) == (clean.columns, clean.metric) for each in found)
    check_test_sets((clean, *found))
    assert len(corrupted_sets((clean,), ("all",), (3,))) == len(CORRUPTIONS)
    assert corrupted_sets((), (), (1,)) == ()


@pytest.mark.parametrize(
    ("corruptions", "severities", "role", "message"),
    [
        (("frogg",), (1,), "id", "did you mean 'fog' or 'frost'"),
        (("fog",), (6,), "id", "less than or equal to 5"),
        (("fog",), (), "id", "severities from 1 to 5"),
        (("fog",), (1,), "seen", "there is none"),
    ],
)
def test_corruptions_that_there_are_not_are_refused(corruptions, severities, role, message):
    with pytest.raises(ValueError, match=message):
        corrupted_sets((a_set(role=role),), corruptions, severities)
