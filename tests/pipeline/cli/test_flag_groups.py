"""A group's fields are flags of the experiment that takes it, with the group's help and the experiment's defaults."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import pytest
import typer
from rich.text import Text
from typer import Context
from typer.core import TyperGroup

from amalgam.pipeline.__main__ import app, main
from amalgam.pipeline.cli.flags import find_experiment, flags_of, make_step
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.experiments.clip.tested import FittedOptimisation
from amalgam.pipeline.experiments.flags import Autoencoders, Corruptions, Optimisation, Sweep, flat, in_words

OWN_FILE = """
from dataclasses import dataclass, fields
from typing import Annotated
from amalgam.pipeline.engine.step import Step

@dataclass(frozen=True)
class Size:
    width: Annotated[int, "Units of a layer."]
    depth: Annotated[int, "Number of layers."] = 2

def work(config, inputs, work):
    return {}

def own(size: Size, scale: float = 1.0) -> Step:
    return Step("own", work, {"width": size.width, "depth": size.depth, "scale": scale})
"""


@dataclass(frozen=True)
class Range:
    low: Annotated[float, "Least."] = 0.0
    high: Annotated[float, "Most."] = 1.0


def test_a_users_group_becomes_flags(tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN_FILE)
    own = find_experiment(f"{tmp_path / 'own.py'}:own")
    assert [flag.name for flag in flags_of(own)] == ["width", "depth", "scale"]
    step = make_step(own, {"width": 8, "depth": 3, "scale": 0.5})
    assert step.config == {"width": 8, "depth": 3, "scale": 0.5}
    with pytest.raises(SystemExit) as finished:
        main(["plan", f"{tmp_path / 'own.py'}:own", "--help"])
    assert finished.value.code == 0
    assert {"--width", "--depth", "Units of a layer.", "[required]"} <= set(words(capsys.readouterr().out))


def words(text: str) -> list[str]:
    flags = [word for word in text.split() if word.startswith("--")]
    return [*flags, *(said for said in ("Units of a layer.", "[required]") if said in text)]


def test_defaults_are_those_of_the_experiment_and_what_is_given_replaces_them():
    @flat
    def chosen(*, span: Range = Range(high=5.0), name: str = "a") -> tuple[Range, str]:
        return span, name

    assert chosen() == (Range(0.0, 5.0), "a")
    assert chosen(low=2.0, name="b") == (Range(2.0, 5.0), "b")
    defaults = {each.name: each.default for each in inspect.signature(chosen).parameters.values()}
    assert defaults == {"low": 0.0, "high": 5.0, "name": "a"}
    assert in_words({"span": Range(), "my_name": "a"}) == {"low": "0.0", "high": "1.0", "my name": "a"}
    with pytest.raises(TypeError):
        chosen(span=Range())


def test_two_flags_of_one_name_are_refused():
    def twice(span: Range, low: float) -> None: ...

    with pytest.raises(ValueError, match="low"):
        flat(twice)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_flag_of_every_experiment_has_a_help_text(name):
    for flag in flags_of(EXPERIMENTS[name]):
        assert flag.annotation.__metadata__[0].help, flag.name


def help_texts(command: Any) -> Iterator[str]:
    """The help of a command and of its flags, and of all commands below it."""
    yield from (each.help or "" for each in (command, *command.params) if hasattr(each, "help"))
    if isinstance(command, TyperGroup):
        for name in command.list_commands(Context(command)):
            yield from help_texts(command.get_command(Context(command), name))


def test_no_part_of_a_help_text_is_taken_for_markup():
    texts = list(help_texts(typer.main.get_command(app)))
    assert len(texts) > 500
    assert not [text for text in texts if Text.from_markup(text).plain.count("[") != text.count("[")]


def test_brackets_in_a_users_help_text_are_shown(tmp_path, capsys):
    text = OWN_FILE.replace("Number of layers.", "Layers [of each block].")
    (tmp_path / "own.py").write_text(text.replace("-> Step:", "-> Step:\n    '''A net [of blocks].'''", 1))
    with pytest.raises(SystemExit):
        main(["plan", f"{tmp_path / 'own.py'}:own", "--help"])
    out = capsys.readouterr().out
    assert "[of each block]" in out and "[of blocks]" in out


@pytest.mark.parametrize("group", [Optimisation, Sweep, Autoencoders, Corruptions])
def test_what_experiments_share_has_one_help_text(group):
    for field in fields(group):
        hints = [get_type_hints(EXPERIMENTS[name], include_extras=True) for name in EXPERIMENTS if "clip" in name]
        found = [hint[field.name] for hint in hints if field.name in hint]
        own, fitted = (
            get_type_hints(each, include_extras=True).get(field.name) for each in (group, FittedOptimisation)
        )
        # What follows from the number of images where nobody gives it has a text of its own.
        assert len(found) > 1 and own in found and set(found) <= {own, fitted}
