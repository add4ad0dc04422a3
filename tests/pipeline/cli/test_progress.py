"""What a run shows while it runs."""

import pytest
from rich.console import Console

from amalgam.pipeline.cli.progress import Running, shown
from amalgam.pipeline.engine.execute import Local, StepsFailed, run
from amalgam.pipeline.engine.place import Place
from amalgam.pipeline.engine.step import Step, ancestors
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.sae.rules import TopK
from tests.pipeline.example import Walk, total_step, walk_step, walks


def screen(running: Running) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(running)
    return capture.get()


def test_a_step_is_on_the_screen_exactly_while_it_is_built(tmp_path):
    seen = []

    def look(config: object, inputs: object, work: Workspace) -> dict[str, float]:
        work.log({"train/loss": 0.25}, step=7)
        seen.append(screen(running))
        return {}

    step = Step("look", look)
    running = Running([step], tmp_path)
    assert step.key not in screen(running)
    run([step], tmp_path, Local())
    assert f"running {step.key}" in seen[0]
    assert "7: train/loss=0.25" in seen[0]
    assert step.key not in screen(running)


def test_what_a_killed_run_left_is_not_shown_as_running(tmp_path):
    step = walks()
    folder = Place(tmp_path).building(step)
    (folder / "out").mkdir(parents=True)
    (folder / "started").touch()
    running = Running([step], tmp_path)
    assert step.key not in screen(running)


def test_without_a_terminal_each_step_is_one_line(tmp_path, capsys):
    step = walks(seeds=(0, 1, 2))
    with shown(ancestors([step]), tmp_path) as listen:
        run([step], tmp_path, Local(), listen)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [each.key for each in ancestors([step])]


def test_a_step_that_fails_is_one_line_that_says_why(tmp_path, capsys):
    step = Step("ask", lambda config, inputs, work: {"k": TopK(k=0)})
    with shown([step], tmp_path) as listen, pytest.raises(StepsFailed):
        run([step], tmp_path, Local(), listen)
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("k must be greater than or equal to 1, got 0")


def test_what_waits_for_a_failure_is_one_line(tmp_path, capsys):
    refused = walk_step(Walk(refuses=True))
    waiting = [total_step((refused,), float(scale)) for scale in range(5)]
    with pytest.raises(StepsFailed), shown(ancestors(waiting), tmp_path) as hear:
        run(waiting, tmp_path, Local(), hear)
    first, second = capsys.readouterr().out.splitlines()
    assert refused.key in first and "are refused" in first
    assert second.startswith("5 steps")
