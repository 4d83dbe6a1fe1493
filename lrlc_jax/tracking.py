"""Weights & Biases, as a mirror of what is on disk: whatever fails here, no run is lost."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec

from lrlc_jax.config import Config
from lrlc_jax.study.listener import Listener
from lrlc_jax.study.plan import label, layer_settings
from lrlc_jax.study.records import Record, data_title

P = ParamSpec("P")
CONNECT_SECONDS = 20


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


class WandbTracker(Listener):
    """One W&B run for each run, grouped by study, and one with each study's table."""

    def __init__(self, config: Config, group: str, prefix: str = "") -> None:
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
    def start_run(self, config: Config, identity: str) -> None:
        """Start a W&B run under the identity, so that a rerun resumes it."""
        settings = {
            "dataset": dataclasses.asdict(config.dataset),
            "layer": layer_settings(config.layer),
            "protocol": dataclasses.asdict(config.protocol),
            "identity": identity,
        }
        self.run = self._init(
            id=self.prefix + identity,
            name=label(config.layer),
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
    def finish_run(self, record: Record, path: pathlib.Path) -> None:
        """Log the final means, and the record as an artifact."""
        import wandb  # noqa: PLC0415

        for name, values in record.final.items():
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                self.run.summary[f"final/{name}"] = sum(known) / len(known)
        self.run.summary["failed_seeds"] = len(record.failed)
        self.run.summary["data"] = data_title(record)
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
    def finish_study(
        self,
        title: str,
        caption: Sequence[str],
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
    ) -> None:
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


def make_tracker(config: Config, group: str = "train", prefix: str = "") -> Listener:
    """The tracker that the configuration names; ``prefix`` keeps its runs apart from others."""
    return WandbTracker(config, group, prefix) if config.tracker.name == "wandb" else Listener()
