"""A source is plain data that says what is wrong with it before anything is read."""

import pytest
from pydantic import TypeAdapter, ValidationError

from amalgam.tasks.data.catalogue import DataSpec, check
from amalgam.tasks.data.images import load
from amalgam.tasks.data.opening import open_source
from amalgam.tasks.data.sources import Corrupted, Source, Stored, StyledPairs, data_of

DIGITS = DataSpec(name="digits")
PAIRS = StyledPairs(glyphs=DIGITS, num_images=10, size=20)


@pytest.mark.parametrize(
    "source",
    [Stored(data=DIGITS), PAIRS, Corrupted(source=PAIRS, corruption="fog", severity=3)],
)
def test_sources_come_back_from_json(source):
    adapter = TypeAdapter(Source)
    assert adapter.validate_json(adapter.dump_json(source)) == source


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (StyledPairs, {"glyphs": DIGITS, "num_images": 9, "style": "blury"}, "did you mean 'blurry'"),
        (StyledPairs, {"glyphs": DIGITS, "num_images": 9, "size": 21}, "multiple of 2"),
        (StyledPairs, {"glyphs": DIGITS, "num_images": 0}, "greater than or equal to 1"),
        (Corrupted, {"source": PAIRS, "corruption": "frogg", "severity": 1}, "did you mean 'fog' or 'frost'"),
        (Corrupted, {"source": PAIRS, "corruption": "fog", "severity": 6}, "less than or equal to 5"),
    ],
)
def test_what_is_no_source_is_refused_when_made(kind, settings, message):
    with pytest.raises(ValidationError, match=message):
        kind(**settings)


def test_absent_files_are_named_through_every_kind(tmp_path):
    absent = StyledPairs(glyphs=DataSpec(name="mnist"), num_images=10)
    for source in (Stored(data=absent.glyphs), absent, Corrupted(source=absent, corruption="fog", severity=1)):
        with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
            check(data_of(source), tmp_path)
    check(data_of(PAIRS), None)


def test_a_stored_source_is_the_set_itself():
    assert open_source(Stored(data=DIGITS, split="train")).fingerprint == load(DIGITS, "train").fingerprint
