"""Where, when and by what code a run was trained, over all the parts that it was trained in."""

import datetime
import time
from typing import Any

import numpy as np

from lrlc_jax.experiments import provenance
from lrlc_jax.training.checkpoint import Checkpoints
from lrlc_jax.training.compilation import CompileClock


class Part:
    """This process's part of a run; what checkpoints say of the parts before is added.

    Args:
        checkpoints: where earlier parts left off; this one says there about itself what they did.
        clock: counts what this process compiles.

    Raises:
        InputError: for a damaged checkpoint.
    """

    def __init__(self, checkpoints: Checkpoints | None, clock: CompileClock) -> None:
        self.clock, self.compiled, self.programs = clock, clock.seconds, clock.programs
        self.began = self.last = time.perf_counter()
        now = datetime.datetime.now(datetime.UTC)
        # Before training: the files may be edited while it goes on.
        self.origin: dict[str, Any] = {
            "code": provenance.code(),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        self.before = (checkpoints.before if checkpoints else {}) or {
            "started": now.isoformat(timespec="seconds"),
            "seconds": 0.0,
            "compile_seconds": 0.0,
            "programs": 0,
            "epoch_seconds": [],
            "parts": [],
        }
        self.epoch_seconds: list[float] = list(self.before["epoch_seconds"])
        if checkpoints:
            checkpoints.about = self.about

    def epoch_ended(self, epoch: int) -> None:
        """An epoch is done, counted from 1."""
        del self.epoch_seconds[epoch - 1 :]
        now = time.perf_counter()
        self.epoch_seconds.append(round(now - self.last, 4))
        self.last = now

    def about(self) -> dict[str, Any]:
        """What the next part is to know of this one and of those before it."""
        return {
            "started": self.before["started"],
            "seconds": self.before["seconds"] + time.perf_counter() - self.began,
            "compile_seconds": self.before["compile_seconds"] + self.clock.seconds - self.compiled,
            "programs": self.before["programs"] + self.clock.programs - self.programs,
            "epoch_seconds": self.epoch_seconds,
            "parts": [*self.before["parts"], {"epochs": len(self.epoch_seconds), **self.origin}],
        }

    def origins(self) -> dict[str, Any]:
        """For the record: the earlier parts, if other code or another machine trained one."""
        parts = self.before["parts"]
        same = all({**part, **self.origin} == part for part in parts)
        return {} if same else {"earlier_parts": parts}

    def time(self, computing_seconds: float) -> dict[str, Any]:
        """For the record: when it began, and seconds over all parts.

        ``outside_share`` is of this part: its time outside of programs and of compiling them.
        """
        total = self.about()
        wall = time.perf_counter() - self.began
        return {
            "started": total["started"],
            "wall_seconds": round(total["seconds"], 3),
            "compile_seconds": round(total["compile_seconds"], 3),
            "programs_compiled": total["programs"],
            "median_epoch_seconds": round(float(np.median(total["epoch_seconds"])), 4),
            "outside_share": round(1 - computing_seconds / wall, 4),
            **({"parts": len(total["parts"])} if self.before["parts"] else {}),
        }
