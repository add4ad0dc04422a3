"""The flags every experiment shares: where things lie and what runs them, never what comes out."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from amalgam.pipeline.engine.execute import Local, Ray, Runner
from amalgam.pipeline.engine.step import Resources, Step, ancestors, with_resources
from amalgam.pipeline.store.storage import root_path
from amalgam.pipeline.tracking.run_record import ALIAS, NETWORKS, REGISTER
from amalgam.tasks.user_names import unknown_name

Root = Annotated[Path, Option(callback=root_path, envvar="AMALGAM_ROOT", help="Folder of all results, or its address.")]
TrackingUri = Annotated[str | None, Option(envvar="MLFLOW_TRACKING_URI", help="MLflow server.")]
resource_option = partial(Option, rich_help_panel="Resources and locations (no effect on results)")
model_option = partial(Option, rich_help_panel="Model registry")


@dataclass(frozen=True)
class Settings:
    """Where a run happens; each field is an option of `run` and `plan`."""

    root: Annotated[
        Path,
        resource_option(
            callback=root_path,
            envvar="AMALGAM_ROOT",
            help="Folder of all results, on a cluster shared by all machines; or s3://, gs://, abfs://.",
        ),
    ] = Path("runs")
    data_root: Annotated[
        Path | None, resource_option(envvar="AMALGAM_DATA", help="Folder of the data sets; nothing is ever downloaded.")
    ] = None
    address: Annotated[
        str | None, resource_option(help="Ray cluster to run on.", show_default="RAY_ADDRESS, else a local Ray")
    ] = None
    local: Annotated[
        bool, resource_option("--local", help="Run without Ray, one step after another in this process.")
    ] = False
    tracking_uri: Annotated[
        str | None,
        resource_option(
            envvar="MLFLOW_TRACKING_URI", help="MLflow server.", show_default="an SQLite file under --root"
        ),
    ] = None
    register: Annotated[
        str | None, model_option(metavar="NAME", help="Register the network of highest accuracy in MLflow.")
    ] = None
    alias: Annotated[str | None, model_option(help="Alias of what is registered, such as champion.")] = None
    num_cpus: Annotated[
        list[str],
        resource_option(metavar="STEP=CPUS", help="CPU cores (and threads) for each step of a kind."),
    ] = field(default_factory=list)
    num_gpus: Annotated[
        list[str],
        resource_option(metavar="STEP=GPUS", help="GPUs (may be fractional) for each step of a kind."),
    ] = field(default_factory=list)
    gpus_per_step: Annotated[
        float | None, resource_option(min=0, help="GPUs (may be fractional) for each step that --num-gpus leaves out.")
    ] = None
    memory: Annotated[
        list[str],
        resource_option(metavar="STEP=GB", help="Expected memory (GB) of each step of a kind, for Ray."),
    ] = field(default_factory=list)
    num_workers: Annotated[
        list[str],
        resource_option(metavar="STEP=PROCESSES", help="Training processes for each step of a kind."),
    ] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.local and self.address:
            raise ValueError(f"--local runs without Ray, so --address {self.address} has no effect: leave out one")
        check_registered(self.register, self.alias)

    def registered(self, step: Step) -> dict[str, str]:
        """Tags of a run that say under what name and alias its best network is registered.

        Raises ValueError if no step of the graph makes a network that could be.
        """
        if self.register and not any(each.name in NETWORKS for each in ancestors([step])):
            raise ValueError(f"--register {self.register}: no step of this experiment is {' or '.join(NETWORKS)}")
        return {tag: value for tag, value in ((REGISTER, self.register), (ALIAS, self.alias)) if value}

    @property
    def runner(self) -> Runner:
        """What builds the steps."""
        return Local() if self.local else Ray(self.address or os.environ.get("RAY_ADDRESS"))

    def equipped(self, step: Step) -> Step:
        """The step, its whole graph with the requested resources."""
        steps = ancestors([step])
        kinds = sorted({each.name for each in steps})
        cpus, gpus = amounts(self.num_cpus, kinds), amounts(self.num_gpus, kinds)
        memory = amounts(self.memory, kinds)
        workers = counts(self.num_workers, sorted({each.name for each in steps if each.is_distributed}))

        def resources(step: Step) -> Resources:
            usual = step.resources
            return replace(
                usual,
                num_cpus=cpus.get(step.name, usual.num_cpus),
                num_gpus=gpus.get(step.name, usual.num_gpus if self.gpus_per_step is None else self.gpus_per_step),
                memory_gb=memory.get(step.name, usual.memory_gb),
                num_workers=workers.get(step.name, usual.num_workers),
            )

        return with_resources([step], resources)[0]


def check_registered(name: str | None, alias: str | None) -> None:
    """Raise ValueError unless MLflow takes the name of a model and its alias."""
    if alias and not name:
        raise ValueError(f"--alias {alias} needs --register NAME: the model that it is an alias of")
    for flag, text, pattern in (("--register", name, r"[^/:]+"), ("--alias", alias, r"(?!latest$|v\d+$)[\w.-]+")):
        if text is not None and not re.fullmatch(pattern, text):
            raise ValueError(f"MLflow takes no {flag} {text!r}: give letters, digits and '-', such as champion")


def amounts(texts: Sequence[str], kinds: Sequence[str]) -> Mapping[str, float]:
    """Numbers by kind of step, from texts such as `member=0.5`."""
    result = {}
    for text in texts:
        kind, _, number = text.partition("=")
        if kind not in kinds:
            raise unknown_name("kind of step", kind, kinds)
        try:
            result[kind] = float(number)
        except ValueError:
            raise ValueError(f"resources are written STEP=NUMBER, such as {kind}=1, got {text!r}") from None
    return result


def counts(texts: Sequence[str], kinds: Sequence[str]) -> Mapping[str, int]:
    """Whole numbers by kind of step, from texts such as `tuned=2`."""
    numbers = amounts(texts, kinds)
    for kind, number in numbers.items():
        if not number.is_integer():
            raise ValueError(f"a number of processes is a whole one, such as {kind}=2, got {kind}={number:g}")
    return {kind: int(number) for kind, number in numbers.items()}
