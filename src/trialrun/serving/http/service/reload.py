"""Following of an alias: the version it moves to replaces the served one without a gap."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import torch

from trialrun.errors import TrialrunError
from trialrun.serving.http.service.model import ModelSource, OpenModel
from trialrun.serving.http.service.service import Service

_logger = logging.getLogger("trialrun.serve")


@asynccontextmanager
async def follow_alias(service: Service, source: ModelSource) -> AsyncIterator[None]:
    """Inside the block, follow the alias of `source` if the settings ask for it."""
    if not service.config.reload_alias:
        yield
        return
    follower = _Follower(service, source, torch.get_num_threads())
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@dataclass(slots=True)
class _Follower:
    """Looks at the alias again and again; a version that cannot be loaded is tried once."""

    service: Service
    source: ModelSource
    num_threads: int
    failed_version: str = ""
    is_answered: bool = True

    async def run(self) -> None:
        """Follow the alias until the task is cancelled."""
        while True:
            await asyncio.sleep(self.service.config.reload_seconds)
            version = await asyncio.to_thread(self._find_version)
            if version and version not in (self.service.model.version, self.failed_version):
                await self._load(version)

    def _find_version(self) -> str:
        """Return the version of the alias; empty if the registry does not say."""
        try:
            version = self.source.find_version()
        except TrialrunError as error:
            if self.is_answered:
                _logger.warning(
                    "%s cannot be looked up, the model stays: %s", self.source.address, error
                )
            self.is_answered = False
            return ""
        self.is_answered = True
        return version

    async def _load(self, version: str) -> None:
        reloads = self.service.metrics.reloads
        try:
            model = await asyncio.to_thread(self._open)
        except Exception as error:
            self.failed_version = version
            reloads.labels("failed").inc()
            _logger.warning("version %s cannot be loaded, the model stays: %s", version, error)
            return
        self.failed_version = ""
        reloads.labels("loaded").inc()
        self.service.replace_model(model)
        _logger.warning(
            "%s is now version %s (%s)", self.source.address, model.version, model.engine
        )

    def _open(self) -> OpenModel:
        torch.set_num_threads(self.num_threads)  # new threads take what a computing thread has set
        return self.source.open()
