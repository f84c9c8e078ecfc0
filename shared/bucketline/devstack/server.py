"""What the stack knows of each server, and what it means to be one."""

from typing import Protocol

from bucketline.devstack.process import ManagedProcess


class Server(Protocol):
    """A server of the stack. The same object may be started again after it was stopped or killed, on its port."""

    process: ManagedProcess
    """To be looked at: its end can be waited for, and its last words read."""

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""

    async def start(self) -> None:
        """Returns when it answers. Raises LocalStackError, and leaves nothing running, when it does not."""

    async def stop(self) -> None:
        """Ends it in order, or by force after a deadline."""

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
