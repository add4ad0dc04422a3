"""A process of some machine, distinguishable from any other that has its number later."""

import os
import socket
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict

CLOCK_STEP = 2.0  # seconds by which the start of one process may differ between two looks: the clock was set


class Process(BaseModel):
    """Which process it is, as far as its machine can say."""

    model_config = ConfigDict(frozen=True)
    host: str
    pid: int
    started: float
    """Unix time, in seconds, as the system has it."""

    @classmethod
    def this(cls) -> Self:
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Self:
        """A process of this machine that has not been waited for."""
        return cls(host=socket.gethostname(), pid=pid, started=psutil.Process(pid).create_time())

    @property
    def is_dead(self) -> bool:
        """Whether it ran on this machine and runs no more; of other machines nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) > CLOCK_STEP or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
