"""Where results lie: a folder of a local or shared file system."""

from amalgam.pipeline.store.storage.address import root_path

__all__ = ["root_path"]
