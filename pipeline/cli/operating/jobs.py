"""`amalgam up`, and `submit`, `status` and `stop`: a Ray cluster, and experiments as jobs on it."""

import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from typer import Argument, Option

from amalgam.pipeline.cli.operating.schedule import check_command
from amalgam.pipeline.cli.progress import IN_A_JOB
from amalgam.pipeline.console import output, say
from amalgam.pipeline.tracking.nights.schedules import DONE
from amalgam.tasks.user_names import is_in_file, unknown_name

if TYPE_CHECKING:
    from amalgam.pipeline.engine.ray.jobs import Cluster, Job

COMMANDS = ("run", "night", "plan")
PASSED_ON = ("AMALGAM_NIGHT", "AMALGAM_DATA", "AMALGAM_ROOT", "MLFLOW_TRACKING_URI")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
PLACEHOLDERS = ("AMI_ID", "EFS_ADDRESS")  # of cluster.yaml
Address = Annotated[
    str, Option(envvar="RAY_API_SERVER_ADDRESS", help="Address of the cluster's dashboard, such as http://HEAD:8265.")
]


def submit(
    context: typer.Context,
    experiment: Annotated[
        list[str], Argument(help="EXPERIMENT and its flags, after run (the default), night or plan.")
    ],
    address: Address,
    submission_id: Annotated[
        str | None,
        Option(
            envvar=IN_A_JOB,
            help="Id of the job; one that runs or has succeeded is not run again.",
            show_default="a new one",
        ),
    ] = None,
    working_dir: Annotated[Path, Option(help="Folder that is sent to the cluster, with your code.")] = Path(),
    no_wait: Annotated[bool, Option("--no-wait", help="Do not follow the job until it ends.")] = False,
) -> None:
    """Run an experiment as a job on a Ray cluster; exit with its exit status."""
    words = list(experiment) if experiment[0] in COMMANDS else ["run", *experiment]
    check_command(words, context.find_root().command)
    words = [_within(word, working_dir) for word in words]
    name = (
        submission_id
        or f"{re.sub(r'[^A-Za-z0-9_]+', '_', words[1])}-{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    )
    if not ID.fullmatch(name):
        raise ValueError(f"--submission-id is letters, digits, '_', '.' and '-', got {name!r}")
    cluster = _cluster(address)
    if (known := _known(cluster, name)) is None:
        variables = {IN_A_JOB: name} | {each: os.environ[each] for each in PASSED_ON if each in os.environ}
        cluster.submit(shlex.join(["python", "-m", "amalgam", *words]), name, working_dir.absolute(), variables)
        say(f"{name}: submitted to {address}")
    elif known.exit_status is not None:
        say(f"{name}: {known.status} already, with exit status {known.exit_status}")
        raise SystemExit(known.exit_status)
    else:
        say(f"{name}: is running already")
    if no_wait:
        say(f"`amalgam status {name} --address {address}` shows its status")
        return
    job = cluster.follow(name, say)
    say(f"{name}: {job.status}" + (f" ({job.message})" if job.exit_status and job.message else ""))
    raise SystemExit(job.exit_status or 0)


def status(
    address: Address,
    job: Annotated[str | None, Argument(help="Id of a job.", show_default="all")] = None,
) -> None:
    """List the jobs of a Ray cluster, or one of them and exit with its exit status."""
    cluster = _cluster(address)
    chosen = [_find(cluster, job)] if job else cluster.jobs()
    table = Table("job", "status", "started", "command", box=None, pad_edge=False)
    for one in chosen:
        started = f"{datetime.fromtimestamp(one.started):%Y-%m-%d %H:%M}" if one.started else ""
        table.add_row(one.id, one.status, started, one.entrypoint)
    output().print(table)
    if job:
        raise SystemExit(chosen[0].exit_status or 0)


def stop(job: Annotated[str, Argument(help="Id of the job.")], address: Address) -> None:
    """End a job; a later `submit` with the same flags resumes where it stopped."""
    cluster = _cluster(address)
    one = _find(cluster, job)
    if one.exit_status is not None:
        say(f"{job}: {one.status} already")
        return
    left = cluster.stop(job)
    status = "still stopping" if left and left.exit_status is None else "stopped"
    say(f"{job}: {status}; finished steps stay, and a job with the same flags resumes there")


def _cluster(address: str) -> "Cluster":
    from amalgam.pipeline.engine.ray.jobs import Cluster  # here, not above: it imports ray

    return Cluster(address)


def _find(cluster: "Cluster", name: str) -> "Job":
    if found := cluster.job(name):
        return found
    raise unknown_name("job", name, [job.id for job in cluster.jobs()])


def _known(cluster: "Cluster", name: str) -> "Job | None":
    """A job of that id that is not to be run again; one that failed or was stopped makes room for another."""
    known = cluster.job(name)
    if known is None or known.exit_status in (None, *DONE):
        return known
    say(f"{name}: {known.status} before, submitted again")
    cluster.forget(name)
    return None


def _within(text: str, folder: Path) -> str:
    """A user's `file.py:NAME` as the job finds it in its working folder. Raises ValueError if it is not sent."""
    flag, equals, value = text.partition("=") if text.startswith("--") else ("", "", text)
    if not is_in_file(value):
        return text
    path, _, name = value.rpartition(":")
    try:
        return f"{flag}{equals}{Path(path).resolve().relative_to(folder.resolve()).as_posix()}:{name}"
    except ValueError:
        raise ValueError(
            f"{path} is not under {folder.resolve()}, so it is not sent to the cluster: give --working-dir"
        ) from None


def up(
    file: Annotated[Path, Argument(help="Cluster file of Ray, such as cluster.yaml.")],
    flags: Annotated[list[str] | None, Argument(help="After --, flags of `ray up`.")] = None,
) -> None:
    """Check a cluster file, also for unfilled placeholders, and start the cluster."""
    require_complete(file)
    raise SystemExit(subprocess.call([str(Path(sys.executable).with_name("ray")), "up", str(file), *(flags or [])]))


def require_complete(file: Path) -> None:
    """Raise ValueError for a cluster file that Ray would refuse, or that has unfilled placeholders."""
    import jsonschema  # here and below, not above: Ray brings them along
    import ray
    import yaml

    try:
        cluster = yaml.safe_load(file.read_text())
        schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
        jsonschema.validate(cluster, schema)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, jsonschema.ValidationError) as error:
        where = ".".join(map(str, getattr(error, "absolute_path", ())))
        reason = str(getattr(error, "message", error)).splitlines()[0]
        raise ValueError(f"{file} is no cluster file of Ray: {where} {reason}") from error
    if left := [name for name in PLACEHOLDERS if re.search(rf"\b{name}\b", json.dumps(cluster))]:
        raise ValueError(f"{file} still has {' and '.join(left)}: put your values there, its first lines say which")
