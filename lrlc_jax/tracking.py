"""Weights & Biases as a mirror of the results on disk. An error here never loses a run."""

import dataclasses
import functools
import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec

import numpy as np

from lrlc_jax.errors import one_of
from lrlc_jax.progress import named_seeds
from lrlc_jax.schema import Schema, word

if TYPE_CHECKING:
    from lrlc_jax.experiments.config import Config
    from lrlc_jax.experiments.record import Record, Run
    from lrlc_jax.report.tables import Table

P = ParamSpec("P")
CONNECT_SECONDS = 20
NAME_LENGTH = 128  # W&B refuses longer ones
MODES = ("offline", "online", "disabled")
ONE_RUN = "train"  # group of runs outside of a study
# Settings that are not in a run's name: it has them in other words, or they do not change results.
NOT_IN_NAME = {"name", "source", "path", "manual_dir", "cache_dir"}
TYPES = {
    ".json": "record",
    ".predictions.safetensors": "predictions",
    ".weights.safetensors": "model",
}


@dataclasses.dataclass
class TrackerConfig(Schema):
    """Mirror of the results: none, or Weights & Biases, whose ``online`` mode needs an account.

    Attributes:
        name: the tracker.
        mode: of W&B; None: WANDB_MODE, or ``online`` in a W&B sweep, otherwise ``offline``.
        project: of W&B; None: WANDB_PROJECT, or ``lrlc_jax``.
        entity: user or team of W&B; None: WANDB_ENTITY, or the user's default.
    """

    SECTION: ClassVar[str] = "tracker"

    name: str = word("none", "wandb")
    mode: str | None = word(*MODES, default="")
    project: str | None = None
    entity: str | None = None


def mode_of(settings: TrackerConfig) -> str:
    """The mode of W&B, from the settings or the environment; an InputError for an unknown one."""
    default = "online" if of_sweep() else "offline"
    given = settings.mode or os.environ.get("WANDB_MODE") or default
    mode = {"dryrun": "offline", "run": "online"}.get(given, given)  # W&B's older names
    one_of("WANDB_MODE", mode, MODES)
    return mode


def of_sweep() -> bool:
    """Whether an agent of a W&B sweep, which works online, started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def run_name(config: "Config", seeds: Sequence[int]) -> str:
    """The layer, the data, the seeds, and every setting that differs from its default."""
    sections = config.dataset, config.network, config.protocol
    changed = [
        f"{name} {value}"
        for section in sections
        for name, value in section.changed().items()
        if name not in NOT_IN_NAME
    ]
    return "; ".join([config.layer.label, config.dataset.name, named_seeds(seeds), *changed])


class Tracker:
    """Callbacks of runs, epochs and studies; this base class does nothing."""

    def start_run(
        self,
        config: "Config",
        run_id: str,
        seeds: Sequence[int],
        earlier: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Start of a run, or its continuation.

        Args:
            config: settings of the run.
            run_id: unique for these settings and seeds, such as ``0123456789abcdef-0-9``.
            seeds: the seed of each position in the arrays of metrics.
            earlier: metrics of the epochs that an earlier process trained, from epoch 1.
        """

    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """End of an epoch, counted from 1; each metric is an array over seeds."""

    def finish_run(self, record: "Record | Run", files: Sequence[pathlib.Path]) -> None:
        """End of a run, after its files are on disk: the record, then predictions and weights."""

    def known_run(
        self, config: "Config", run_id: str, run: "Run", files: Sequence[pathlib.Path]
    ) -> None:
        """A run whose seeds are all on record, trained now or earlier."""

    def stop(self) -> None:
        """Early end of the work; an unfinished run continues later."""

    def finish_study(
        self, tables: Mapping[str, "Table"], figures: Mapping[str, pathlib.Path]
    ) -> None:
        """End of a study, after its tables and figures (PNG files), by name, are on disk."""


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
    """One W&B run for each visit of a run, in the group of its study, and one for its results.

    ``prefix`` begins the W&B ids, to tell repetitions of a run apart. W&B's own environment
    variables apply, unless a setting says otherwise.
    """

    def __init__(self, config: "Config", group: str, prefix: str = "") -> None:
        self.settings, self.group, self.prefix = config.tracker, group, prefix
        self.mode = mode_of(config.tracker)
        folder = pathlib.Path(os.environ.get("WANDB_DIR") or config.results_dir)
        self.folder = str(folder.expanduser())
        self.broken = self.finished = False
        self.run: Any = None
        self.run_id, self.seeds = "", tuple[int, ...]()

    def _init(self, run_id: str, name: str, **arguments: Any) -> Any:
        import wandb  # noqa: PLC0415 (slow to import, off by default)

        if self.run is not None:  # its training failed
            self.run.finish(exit_code=1)
            self.run = None
        if self.mode == "online" and not wandb.login(prompt=False, verify=False):
            self._go_offline("no account is configured; `wandb login` does that")
        environment, settings = os.environ, self.settings
        given = environment.get("WANDB_NAME")
        if given:
            name = given if self.group == ONE_RUN else f"{given} {name}"
        common: dict[str, Any] = {
            "id": run_id,
            "name": name[:NAME_LENGTH],
            "project": settings.project or environment.get("WANDB_PROJECT") or "lrlc_jax",
            "entity": settings.entity or environment.get("WANDB_ENTITY"),
            "group": environment.get("WANDB_RUN_GROUP") or self.group,
            "dir": self.folder,
            "settings": wandb.Settings(silent=True, init_timeout=CONNECT_SECONDS),
        }
        if of_sweep():  # its agent has chosen them
            common |= {"id": None, "project": None, "entity": None}
        if self.mode == "online":
            try:
                return wandb.init(mode="online", resume="allow", **common, **arguments)
            except wandb.errors.CommError as error:
                self._go_offline(str(error).splitlines()[0])
                wandb.teardown()  # frees the identity of the run that did not start
        # Not resumed: an upload would append all epochs of this process to those of earlier ones.
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
    def start_run(
        self,
        config: "Config",
        run_id: str,
        seeds: Sequence[int],
        earlier: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Start a W&B run; a later process resumes it online, or repeats its epochs offline."""
        self.run_id, self.seeds = self.prefix + run_id, tuple(seeds)
        if of_sweep() and self.seeds != config.protocol.seed_numbers:
            return  # the agent's one run gets all seeds at the end, by `known_run`
        settings = {
            "dataset": dataclasses.asdict(config.dataset),
            "layer": config.layer.canonical(),
            "network": dataclasses.asdict(config.network),
            "protocol": dataclasses.asdict(config.protocol),
            "run_id": run_id,
            "seeds": list(seeds),
        }
        name = run_name(config, seeds)
        self.run = self._init(self.run_id, name, job_type="run", config=settings)
        if of_sweep():
            # A parameter `layer` of the sweep replaces the section of this name.
            found = self.run.config
            replaced = {name: value for name, value in settings.items() if found[name] != value}
            found.update({f"{name}_settings": value for name, value in replaced.items()})
        for number, metrics in enumerate(earlier, start=1):
            self.epoch(number, metrics)

    @guarded
    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Log each metric of each seed, and the mean over seeds."""
        # W&B has earlier steps of a run that it resumed, which it does online.
        if self.run is None or epoch < self.run.starting_step:
            return
        values: dict[str, float] = {"epoch": epoch}
        for name, by_seed in metrics.items():
            if name.startswith("validation_") and np.isnan(by_seed).all():  # not evaluated
                continue
            values[f"{name}/mean"] = float(by_seed.mean())
            for seed, value in zip(self.seeds, by_seed, strict=True):
                values[f"{name}/seed{seed}"] = float(value)
        self.run.log(values, step=epoch)

    @guarded
    def finish_run(self, record: "Record | Run", files: Sequence[pathlib.Path]) -> None:
        """Log the final means and the data, and each file as an artifact."""
        import wandb  # noqa: PLC0415

        if self.run is None:
            return
        for name, by_seed in record.final.items():
            known = [value for value in by_seed if value is not None]
            if len(known) == len(by_seed):
                self.run.summary[f"final/{name}"] = sum(known) / len(known)
        self.run.summary["failed_seeds"] = len(record.failed)
        self.run.summary["data"] = record.data_title
        data = {**record.data, "fingerprint": record.run["dataset"]["fingerprint"]}
        self.run.config.update({"identity": record.identity, "data": data}, allow_val_change=True)
        for path in files:
            kind = TYPES["".join(path.suffixes[-2:])]
            name = path.name.partition(".")[0]
            artifact = wandb.Artifact(f"{kind}-{name}"[:NAME_LENGTH], type=kind)
            # The files never change: W&B needs no copy until it uploads them.
            artifact.add_file(str(path.resolve()), policy="immutable")
            self.run.log_artifact(artifact)
        self.run.finish()
        self.run, self.finished = None, True

    @guarded
    def known_run(
        self, config: "Config", run_id: str, run: "Run", files: Sequence[pathlib.Path]
    ) -> None:
        """In a sweep, log the run, unless that is done: its agent waits for the metric."""
        if of_sweep() and not self.finished:
            by_epoch = zip(*(np.array(v, float) for v in run.epochs.values()), strict=True)
            epochs = [dict(zip(run.epochs, values, strict=True)) for values in by_epoch]
            self.start_run(config, run_id, run.seeds, epochs)
            self.finish_run(run, files)

    @guarded
    def stop(self) -> None:
        """Close the current W&B run, so that all of its values are stored."""
        if self.run is not None:
            self.run.finish()
            self.run = None

    @guarded
    def finish_study(
        self, tables: Mapping[str, "Table"], figures: Mapping[str, pathlib.Path]
    ) -> None:
        """Log the tables, with their captions as notes, and the figures of a study in one run."""
        import wandb  # noqa: PLC0415

        notes = "\n\n".join("\n".join([t.title, *t.caption]) for t in tables.values())
        run_id = f"study-{self.group}-{hashlib.sha256(' '.join(tables).encode()).hexdigest()[:12]}"
        run = self._init(run_id, f"{self.group}: results", job_type="study", notes=notes)
        logged: dict[str, Any] = {
            name: wandb.Table(columns=list(table.header), data=[list(row) for row in table.rows])
            for name, table in tables.items()
        }
        run.log(logged | {name: wandb.Image(str(path)) for name, path in figures.items()})
        run.finish()


def make_tracker(config: "Config", group: str = ONE_RUN, prefix: str = "") -> Tracker:
    """The tracker of a configuration."""
    if config.tracker.name == "none" or mode_of(config.tracker) == "disabled":
        return Tracker()
    return WandbTracker(config, group, prefix)
