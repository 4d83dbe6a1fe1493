"""Weights & Biases as a mirror of the results on disk. An error here never loses a run."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeAlias

from lrlc_jax.schema import Schema, word

if TYPE_CHECKING:
    from lrlc_jax.experiments.config import Config
    from lrlc_jax.experiments.record import Record

P = ParamSpec("P")
Row: TypeAlias = Sequence[str]
CONNECT_SECONDS = 20


@dataclasses.dataclass
class TrackerConfig(Schema):
    """Mirror of the results: none, or Weights & Biases, whose ``online`` mode needs an account.

    ``entity`` is a user or team of W&B, by default the user's own.
    """

    SECTION: ClassVar[str] = "tracker"

    name: str = word("none", "wandb")
    mode: str = word("offline", "online")
    project: str = "lrlc_jax"
    entity: str | None = None


class Tracker:
    """Callbacks of runs, epochs and studies; this base class does nothing."""

    def start_run(
        self,
        config: "Config",
        run_id: str,
        seeds: Sequence[int],
        earlier: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Start of a run, or its continuation."""

    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """End of an epoch, counted from 1; each metric is an array over seeds."""

    def finish_run(self, record: "Record", files: Sequence[pathlib.Path]) -> None:
        """End of a run, after its record is on disk."""

    def stop(self) -> None:
        """Early end of the work; an unfinished run continues later."""

    def finish_study(self, title: str, caption: Row, header: Row, rows: Sequence[Row]) -> None:
        """End of a study, after its table is on disk."""


def guarded(
    method: Callable[Concatenate["WandbTracker", P], None],
) -> Callable[Concatenate["WandbTracker", P], None]:
    """Report the first error of a tracker, and continue without it."""

    @functools.wraps(method)
    def call(self: "WandbTracker", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.broken:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.broken = True
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            text = f"W&B failed ({reason}); going on without it. All results are on disk."
            print(text, file=sys.stderr, flush=True)

    return call


class WandbTracker(Tracker):
    """One W&B run for each run, in the group of its study, and one for each study's table.

    ``prefix`` begins the W&B ids, to tell repetitions of a run apart.
    """

    def __init__(self, config: "Config", group: str, prefix: str = "") -> None:
        self.settings, self.folder = config.tracker, config.results_dir
        self.group, self.prefix, self.mode = group, prefix, config.tracker.mode
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
                wandb.teardown()  # frees the identity of the run that did not start
        return wandb.init(mode="offline", **common, **arguments)

    def _go_offline(self, reason: str) -> None:
        self.mode = "offline"
        print(
            f"W&B cannot be reached ({reason}); going on offline: "
            f"`wandb sync {self.folder}/wandb/offline-run-*` uploads the runs later.",
            file=sys.stderr,
            flush=True,
        )

    @guarded
    def start_run(self, config: "Config", identity: str) -> None:
        """Start a W&B run under the identity; a later process resumes it."""
        self.run = self._init(
            id=self.prefix + identity,
            name=config.layer.label,
            job_type="run",
            config={
                "dataset": dataclasses.asdict(config.dataset),
                "layer": config.layer.canonical(),
                "protocol": dataclasses.asdict(config.protocol),
                "identity": identity,
            },
            resume="allow",
        )

    @guarded
    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Log each metric of each seed, and the mean over seeds."""
        values: dict[str, float] = {"epoch": epoch}
        for name, by_seed in metrics.items():
            values[f"{name}/mean"] = float(by_seed.mean())
            values |= {f"{name}/seed{i}": float(value) for i, value in enumerate(by_seed)}
        self.run.log(values, step=epoch)

    @guarded
    def finish_run(self, record: "Record", path: pathlib.Path) -> None:
        """Log the final means, and the record as an artifact."""
        import wandb  # noqa: PLC0415

        for name, by_seed in record.final.items():
            known = [value for value in by_seed if value is not None]
            if len(known) == len(by_seed):
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
        """Close the current W&B run, so that all of its values are stored."""
        if self.run is not None:
            self.run.finish()

    @guarded
    def finish_study(self, title: str, caption: Row, header: Row, rows: Sequence[Row]) -> None:
        """Log the study's table as a W&B table, with its caption as notes."""
        import wandb  # noqa: PLC0415

        run = self._init(
            id=f"table-{title}",
            name=f"{self.group}: table",
            job_type="table",
            notes="\n".join(caption),
            resume="allow",
        )
        run.log({title: wandb.Table(columns=list(header), data=[list(row) for row in rows])})
        run.finish()


def make_tracker(config: "Config", group: str = "train", prefix: str = "") -> Tracker:
    """The tracker of a configuration."""
    return WandbTracker(config, group, prefix) if config.tracker.name == "wandb" else Tracker()
