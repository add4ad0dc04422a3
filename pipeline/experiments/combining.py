"""Combiners on the members of an earlier run: fitted on validation images, compared on test images, nothing trained.

amalgam run digits_partial_fusion
amalgam run combine                  # of the newest run that has members; --run KEY of another one
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments.flags import Texts
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.steps.combining.combined import COMBINED, COMBINER_NAMES, CombinedConfig
from amalgam.pipeline.steps.combining.logits import STAGED_LOGITS, LogitsConfig
from amalgam.pipeline.steps.fusion.members import EVALUATION, MEMBER, EvaluationConfig, MemberConfig, built_member
from amalgam.pipeline.steps.reports import COMPARISON, ComparisonConfig
from amalgam.pipeline.tracking.nights.record import find_run, records_of
from amalgam.pipeline.tracking.run_record import RunRecord, read_runs

MEASURES = (
    Measure(name="accuracy", heading="accuracy %", unit="percent"),
    Measure(name="nll", heading="NLL"),
    Measure(name="calibration_error", heading="ECE %", unit="percent"),
    Measure(name="flops", heading="M FLOPs", unit="millions"),
)


def combine(
    *,
    run: Annotated[
        str | None, "Key of the run, the start of one, or an alias; default: the newest with members."
    ] = None,
    families: Annotated[Texts, "Family of each member, in their order, such as cnn,cnn,vit; default: its model."] = (),
    combiners: Annotated[Texts, f"Which combiners: {', '.join(COMBINER_NAMES)}."] = COMBINER_NAMES,
    root: Path = Path("runs"),
) -> Step:
    """Fit combiners to the members of an earlier run on validation images, and compare them on test images."""
    source, steps = _members_of(root, run)
    results: list[Step] = []
    for members in _repetitions(steps):
        seed = _config(members[0]).sample.seed
        results += combined(members, families, combiners, seed)
    settings = {"run": source.key, "families": ", ".join(families) or "by model", "combiners": ", ".join(combiners)}
    title = f"Combiners of {len(members)} members of {source.key}"
    return COMPARISON(ComparisonConfig(title=title, settings=settings, measures=MEASURES), results=tuple(results))


def combined(members: Sequence[Step], families: Sequence[str], combiners: Sequence[str], seed: int) -> list[Step]:
    """The evaluations of some members of one repetition, and of the combiners fitted to them.

    Raises ValueError unless there are two members or more, with a family each if there are any.
    """
    configs = [_config(member) for member in members]
    kinds = tuple(families) or tuple(config.model.name for config in configs)
    if len(members) < 2 or len(kinds) != len(members):
        raise ValueError(f"combiners need two members or more, with a family each: got {len(members)} and {kinds}")
    alone = tuple(
        EVALUATION(EvaluationConfig(data=config.sample.data, seed=seed, member=index), members=(member,))
        for index, (member, config) in enumerate(zip(members, configs, strict=True))
    )
    return [*alone, fitted_combiners(members, alone, kinds, combiners, seed)]


def fitted_combiners(
    members: Sequence[Step], evaluations: Sequence[Step], families: Sequence[str], combiners: Sequence[str], seed: int
) -> Step:
    """Combiners fitted to members on the validation images of their sample; evaluations say what members cost."""
    logits = tuple(
        STAGED_LOGITS(LogitsConfig(sample=_config(member).sample, family=family), member=member)
        for member, family in zip(members, families, strict=True)
    )
    config = CombinedConfig(combiners=tuple(combiners), families=tuple(families), seed=seed)
    return COMBINED(config, logits=logits, evaluations=tuple(evaluations))


def _config(member: Step) -> MemberConfig:
    assert isinstance(member.config, MemberConfig)
    return member.config


def _members_of(root: Path, name: str | None) -> tuple[RunRecord, list[Step]]:
    """A run and its members that are there. Raises ValueError if it has none."""
    runs = [find_run(root, name)] if name else list(reversed(read_runs(root)))
    for run in runs:
        if found := [built_member(record) for record in records_of(run, root) if record.name == MEMBER.name]:
            return run, found
    where = f"run {runs[0].key} has no" if name else f"no run under {root} has"
    raise ValueError(f"{where} members to combine: run partial_fusion first, or give --run")


def _repetitions(members: Sequence[Step]) -> list[list[Step]]:
    """The members by the sample that they were drawn from, in their order."""
    found: dict[str, list[Step]] = {}
    ordered = sorted(
        members, key=lambda step: (_config(step).sample.seed, _config(step).model.name, _config(step).member)
    )
    for member in ordered:
        found.setdefault(str(_config(member).sample), []).append(member)
    return list(found.values())
