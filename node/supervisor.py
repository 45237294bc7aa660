"""Starts services in their order and stops them in the reverse one (DESIGN, "Processes, trust, files")."""

import asyncio
from typing import Protocol

import structlog

log = structlog.get_logger()
STOP_SECONDS = 15.0


class Startable(Protocol):
    @property
    def name(self) -> str: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Supervisor:
    """`failed` holds the first error that must end the daemon; `stopping` is set by it, or by a wish to stop."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.failed: BaseException | None = None
        self._running: list[Startable] = []

    async def start(self, service: Startable) -> None:
        """Raises what the service raised; it is logged here, with the name of the service."""
        self._running.append(service)  # also one that fails half-way is stopped
        try:
            await service.start()
        except Exception as error:
            log.error("service_failed", service=service.name, error=str(error) or repr(error))
            self.fail(error)
            raise
        log.info("service_started", service=service.name)

    def fail(self, error: BaseException) -> None:
        """Ends the daemon: going on would be worse, as without a disk to save on."""
        if self.failed is None:
            self.failed = error
            log.error("daemon_fails", error=str(error) or repr(error))
        self.stopping.set()

    def request_stop(self) -> None:
        self.stopping.set()

    async def stop(self) -> None:
        """Each service gets its time; one that fails to stop does not keep the others from it."""
        while self._running:
            service = self._running.pop()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await service.stop()
            except TimeoutError:
                log.error("service_hangs", service=service.name, seconds=STOP_SECONDS)
            except Exception as error:
                log.error("service_stop_failed", service=service.name, error=repr(error), exc_info=True)
            else:
                log.info("service_stopped", service=service.name)
