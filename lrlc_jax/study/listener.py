"""Who is told of runs as they happen, besides the disk."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lrlc_jax.config import Config
from lrlc_jax.study.records import Record


class Listener:
    """Is told what happens. This one does nothing with it."""

    def start_run(self, config: Config, identity: str) -> None:
        """A run begins."""

    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """An epoch is done; each figure is an array over the seeds."""

    def finish_run(self, record: Record, path: pathlib.Path) -> None:
        """A run's record is on disk."""

    def stop(self) -> None:
        """The work ends for now, perhaps within a run; it will go on under the same identity."""

    def finish_study(
        self,
        title: str,
        caption: Sequence[str],
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
    ) -> None:
        """A study's table is on disk; its caption says what was run, and on what."""
