"""Weights & Biases, as a mirror of what is on disk: whatever fails here, no run is lost."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias

from lrlc_jax.errors import one_of

if TYPE_CHECKING:
    from lrlc_jax.experiments.config import Config
    from lrlc_jax.experiments.record import Record

P = ParamSpec("P")
Row: TypeAlias = Sequence[str]
CONNECT_SECONDS = 20


@dataclasses.dataclass
class TrackerConfig:
    """Where, besides the disk, a run's figures go."""

    name: str = "none"
    mode: str = "offline"
    project: str = "lrlc_jax"
    entity: str | None = None

    def check(self) -> None:
        """Refuse an unknown tracker or mode.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        one_of("tracker", self.name, ("none", "wandb"))
        one_of("tracker.mode", self.mode, ("offline", "online"))


def guarded(
    method: Callable[Concatenate["WandbTracker", P], None],
) -> Callable[Concatenate["WandbTracker", P], None]:
    """After the first error say so once, and let the work go on without tracking."""

    @functools.wraps(method)
    def call(self: "WandbTracker", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.broken:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.broken = True
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            warn(f"W&B failed ({reason}); going on without it, everything is kept on disk.")

    return call


def warn(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


class Tracker:
    """Is told what happens. This one does nothing with it."""

    def start_run(self, config: "Config", identity: str) -> None:
        """A run begins."""

    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """An epoch is done; each figure is an array over the seeds."""

    def finish_run(self, record: "Record", path: pathlib.Path) -> None:
        """A run's record is on disk."""

    def stop(self) -> None:
        """The work ends for now, perhaps within a run; it will go on under the same identity."""

    def finish_study(self, title: str, caption: Row, header: Row, rows: Sequence[Row]) -> None:
        """A study's table is on disk; its caption says what was run, and on what."""


class WandbTracker(Tracker):
    """One W&B run for each run, grouped by study, and one with each study's table."""

    def __init__(self, config: "Config", group: str, prefix: str = "") -> None:
        self.settings = config.tracker
        self.folder = config.results_dir
        self.group = group
        self.prefix = prefix
        self.mode = config.tracker.mode
        self.broken = False
        self.run: Any = None

    def _init(self, **arguments: Any) -> Any:
        import wandb  # noqa: PLC0415 (slow to import, off by default)

        if self.mode == "online" and not wandb.login(prompt=False, verify=False):
            self._go_offline("no account is configured; `wandb login` does that")
        common: dict[str, Any] = {
            "project": self.settings.project,
            "entity": self.settings.entity,
            "group": self.group,
            "dir": self.folder,
            "settings": wandb.Settings(silent=True, init_timeout=CONNECT_SECONDS),
        }
        if self.mode == "online":
            try:
                return wandb.init(mode="online", **common, **arguments)
            except wandb.errors.CommError as error:
                self._go_offline(str(error).splitlines()[0])
                wandb.teardown()  # or it holds on to the identity of the run that did not start
        return wandb.init(mode="offline", **common, **arguments)

    def _go_offline(self, reason: str) -> None:
        self.mode = "offline"
        warn(
            f"W&B cannot be reached ({reason}); going on offline: "
            f"`wandb sync {self.folder}/wandb/offline-run-*` uploads it later."
        )

    @guarded
    def start_run(self, config: "Config", identity: str) -> None:
        """Start a W&B run under the identity, so that a rerun resumes it."""
        settings = {
            "dataset": dataclasses.asdict(config.dataset),
            "layer": config.layer.canonical(),
            "protocol": dataclasses.asdict(config.protocol),
            "identity": identity,
        }
        self.run = self._init(
            id=self.prefix + identity,
            name=config.layer.label,
            job_type="run",
            config=settings,
            resume="allow",
        )

    @guarded
    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Log the mean and each seed of every figure."""
        figures: dict[str, float] = {"epoch": epoch}
        for name, values in metrics.items():
            figures[f"{name}/mean"] = float(values.mean())
            figures |= {f"{name}/seed{i}": float(v) for i, v in enumerate(values)}
        self.run.log(figures, step=epoch)

    @guarded
    def finish_run(self, record: "Record", path: pathlib.Path) -> None:
        """Log the final means, and the record as an artifact."""
        import wandb  # noqa: PLC0415

        for name, values in record.final.items():
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                self.run.summary[f"final/{name}"] = sum(known) / len(known)
        self.run.summary["failed_seeds"] = len(record.failed)
        self.run.summary["data"] = record.data_title
        artifact = wandb.Artifact(f"record-{record.identity}", type="record")
        artifact.add_file(str(path))
        self.run.log_artifact(artifact)
        self.run.finish()
        self.run = None

    @guarded
    def stop(self) -> None:
        """Close the W&B run that was begun, so that nothing of it is lost; a rerun resumes it."""
        if self.run is not None:
            self.run.finish()

    @guarded
    def finish_study(self, title: str, caption: Row, header: Row, rows: Sequence[Row]) -> None:
        """Log the study's table as a W&B table, its caption as the notes of the W&B run."""
        import wandb  # noqa: PLC0415

        said = "\n".join(caption)
        run = self._init(
            id=f"table-{title}",
            name=f"{self.group}: table",
            job_type="table",
            notes=said,
            resume="allow",
        )
        run.log({title: wandb.Table(columns=list(header), data=[list(row) for row in rows])})
        run.finish()


def make_tracker(config: "Config", group: str = "train", prefix: str = "") -> Tracker:
    """The tracker that the configuration names; ``prefix`` keeps its runs apart from others."""
    return WandbTracker(config, group, prefix) if config.tracker.name == "wandb" else Tracker()
