"""Jobs on a Ray cluster by the address of its dashboard: submitted under fixed ids, followed, stopped."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from amalgam.pipeline.console import first_line

STAYS_HERE = (
    ".venv",
    "venv",
    ".git",
    "node_modules",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "/runs",
    "/mlruns",
    "/data",
)
"""Names that never travel to a cluster, those with / only at the top; what git ignores does not travel either."""
MOST_BYTES = 200 * 10**6  # of files that travel; Ray takes half a gigabyte, and every worker unpacks them
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)
STOPS_WITHIN = 60.0  # seconds; Ray kills what ignores SIGTERM after a few
MONITORED_FOR = 5.0  # seconds; several rounds of Ray's monitor of a job
STOPPED = 130  # exit status for a job that somebody stopped


@dataclass(frozen=True)
class Job:
    """What a cluster says of a job."""

    id: str
    status: str
    entrypoint: str
    started: float | None
    """Unix time, in seconds."""
    exit_status: int | None
    """That of its command once it has ended, 130 if it was stopped, 1 if it never began."""
    message: str

    @classmethod
    def of(cls, details: JobDetails) -> "Job":
        """From Ray's details."""
        status = None
        if details.status in ENDED:
            code = details.driver_exit_code
            usual = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: STOPPED}.get(details.status, 1)
            status = code if code is not None and code > 0 and details.status == JobStatus.FAILED else usual
        started = details.start_time / 1000 if details.start_time else None
        message = details.message or ""
        return cls(details.submission_id or "", details.status.value, details.entrypoint, started, status, message)


class Cluster:
    """A cluster's jobs. Every method raises ValueError, in one sentence, if the cluster does not answer."""

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"--address is that of the dashboard, such as http://HEAD:8265, got {address!r}")
        self.address = address

    @cached_property
    def _client(self) -> JobSubmissionClient:
        with self._spoken_to():
            return JobSubmissionClient(self.address)

    def submit(self, entrypoint: str, submission_id: str, folder: Path, variables: Mapping[str, str]) -> None:
        """Send the files of a folder and run a command in them. Raises ValueError if they are too large."""
        require_small(folder)
        with self._spoken_to():
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env={"working_dir": str(folder), "excludes": list(STAYS_HERE), "env_vars": dict(variables)},
            )

    def job(self, submission_id: str) -> Job | None:
        """The job of that id, if there is one."""
        return next((job for job in self.jobs() if job.id == submission_id), None)

    def jobs(self) -> list[Job]:
        """All jobs that were submitted, oldest first."""
        with self._spoken_to():
            found = [Job.of(each) for each in self._client.list_jobs() if each.submission_id]
        return sorted(found, key=lambda job: job.started or 0)

    def follow(self, submission_id: str, show: Callable[[str], None]) -> Job:
        """Show what a job prints, whole lines, until it ends. Raises ConnectionError if the cluster is lost before."""
        try:
            asyncio.run(_follow(self._client.tail_job_logs(submission_id), show))
            job = self.job(submission_id)
        except (RuntimeError, OSError, RayError, ValueError) as error:
            raise ConnectionError(
                f"the Ray cluster at {self.address} answers no more ({first_line(error)}): what {submission_id} "
                "finished is kept, and the same submission, to this cluster or another, goes on from there"
            ) from error
        assert job, "a job that was followed is known"
        return job

    def stop(self, submission_id: str) -> Job | None:
        """Ask a job to end, and return it once it has, or as it is when `STOPS_WITHIN` is over."""
        with self._spoken_to():
            self._client.stop_job(submission_id)
        ends = time.monotonic() + STOPS_WITHIN
        while (job := self.job(submission_id)) and job.exit_status is None and time.monotonic() < ends:
            time.sleep(0.2)
        return job

    def forget(self, submission_id: str) -> None:
        """Remove a job that has ended, so that its id can be used again."""
        with self._spoken_to():
            self._client.delete_job(submission_id)
        # Ray's monitor looks once a second whether the job's supervisor has exited. Seeing that only after a new job
        # has the id, it would mark that one as failed.
        time.sleep(MONITORED_FOR)

    @contextmanager
    def _spoken_to(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError, RayError) as error:
            remedy = "give the address of its dashboard, and its token by RAY_AUTH_MODE=token"
            raise ValueError(
                f"the Ray cluster at {self.address} does not take this ({first_line(error)}): {remedy}"
            ) from error


def require_small(folder: Path) -> None:
    """Raise ValueError, naming the largest, if the files of a folder are too many bytes to travel."""
    sizes: dict[str, int] = {}
    for file in travelling(folder):
        top = file.relative_to(folder).parts[0]
        sizes[top] = sizes.get(top, 0) + file.lstat().st_size
    if sum(sizes.values()) > MOST_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"{folder} has {sum(sizes.values()) / 1e6:.0f} MB of files, more than the {MOST_BYTES / 1e6:.0f} MB that "
            f"travel; the largest is {largest} with {sizes[largest] / 1e6:.0f} MB: name it in .gitignore, "
            "or give another --working-dir"
        )


def travelling(folder: Path) -> list[Path]:
    """The files of a folder that Ray sends along."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        files = [folder / name for name in listed.stdout.split("\0") if name]
        return [file for file in files if file.exists() and not _stays(file, folder)]
    found = list[Path]()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _stays(Path(place, name), folder)]
        found += [Path(place, name) for name in names if not _stays(Path(place, name), folder)]
    return found


def _stays(path: Path, folder: Path) -> bool:
    first, *others = path.relative_to(folder).parts
    parts = [first, *others, f"/{first}"]
    return any(fnmatch(part, pattern) for part in parts for pattern in STAYS_HERE)


async def _follow(chunks: AsyncIterator[Any], show: Callable[[str], None]) -> None:
    rest = ""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            show(line)
    if rest:
        show(rest)
