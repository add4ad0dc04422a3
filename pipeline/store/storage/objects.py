"""The objects under an address, through pyarrow's file systems."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

AT_ONCE = 16  # requests; a store takes tens of milliseconds for each


class ObjectFacts(NamedTuple):
    """What a store says of an object."""

    size: int
    """Bytes."""
    changed: int
    """Unix time by the store's clock, in seconds."""


class PrefixObjects:
    """Objects by name, the rest of their path below a prefix."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files, self.prefix = _opened(address)

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None if there is none."""
        try:
            with self.files.open_input_stream(self._path(name)) as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Make an object, in place of an earlier one, whole or not at all."""
        with self.files.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Make an object unless there is one; whether it was made.

        By S3's conditional put, for which boto3 is needed. Where there is none, an earlier object is written over.
        """
        client = _s3_client(self.address)
        if client is None:
            self.write(name, data)
            return True
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = self._path(name).partition("/")
        try:
            client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            self.write(name, data)  # a server of another vendor, without this; or the credentials are pyarrow's alone
        except BotoCoreError:
            self.write(name, data)
        return True

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        try:
            self.files.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Size in bytes of every object under a folder, by its name below that folder."""
        return {name: facts.size for name, facts in self.facts(folder).items()}

    def facts(self, folder: str = "") -> dict[str, ObjectFacts]:
        """Size and time of every object under a folder, by its name below that folder."""
        from pyarrow.fs import FileSelector, FileType  # here, not above: few roots need it

        place = self._path(folder)
        infos = self.files.get_file_info(FileSelector(place, allow_not_found=True, recursive=True))
        found = [info for info in infos if info.type == FileType.File]
        return {i.path[len(place) + 1 :]: ObjectFacts(i.size, (i.mtime_ns or 0) // 10**9) for i in found}

    def upload(self, source: Path, folder: str, names: Iterable[str]) -> None:
        """Copy these files of a folder of this machine to objects under `folder`."""
        from pyarrow.fs import LocalFileSystem, copy_files

        def copy(name: str) -> None:
            copy_files(str(source / name), self._path(f"{folder}/{name}"), LocalFileSystem(), self.files)

        each(copy, names)

    def download(self, folder: str, destination: Path, names: Iterable[str] | None = None) -> None:
        """Copy the objects under `folder`, all or those of some names, to a folder of this machine."""
        from pyarrow.fs import LocalFileSystem, copy_files

        def copy(name: str) -> None:
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            copy_files(self._path(f"{folder}/{name}"), str(destination / name), self.files, LocalFileSystem())

        each(copy, self.sizes(folder) if names is None else names)

    def move(self, folder: str, destination: str, first: str) -> None:
        """Give all objects under `folder` other names, that named `first` before the others."""
        names = sorted(self.sizes(folder), key=lambda name: name != first)
        for name in names:
            self.files.move(self._path(f"{folder}/{name}"), self._path(f"{destination}/{name}"))

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}" if name else self.prefix


def each(act: Any, items: Iterable[Any]) -> list[Any]:
    """What `act` gives for each of the items, many of them at once, in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(act, items))


@cache
def _opened(address: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    files, prefix = FileSystem.from_uri(address)
    return files, prefix.rstrip("/")


@cache
def _s3_client(address: str) -> Any:
    """boto3's client for an address of S3, with the server and region that it names; None without boto3."""
    parts = urlsplit(address)
    if parts.scheme != "s3":
        return None
    try:
        import boto3
    except ImportError:
        return None
    given = dict(parse_qsl(parts.query))
    host = given.get("endpoint_override")
    server = host if host is None or "://" in host else f"{given.get('scheme', 'https')}://{host}"
    return boto3.client("s3", endpoint_url=server, region_name=given.get("region"))
