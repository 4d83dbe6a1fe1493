"""Effect of one setting: pairs of runs on record that differ in nothing else."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from lrlc_jax.experiments.differences import Difference, Sample, difference
from lrlc_jax.experiments.identity import changed, defaults, identity, layer_of
from lrlc_jax.experiments.record import Records, Run
from lrlc_jax.report.results import labels, sample
from lrlc_jax.report.tables import EMPTY, Table

HEADER = (
    *("Setting", "Value", "Default", "Data", "Layer"),
    *("With the value", "With the default", "Difference", "Labels"),
)


@dataclasses.dataclass(frozen=True)
class Effect:
    """Two runs with the same layer and data that differ in one setting.

    Attributes:
        setting: its name, such as ``protocol.adam_epsilon``.
        value, default: the two values.
        run: the run with ``value``.
        other: the run with the default.
    """

    setting: str
    value: Any
    default: Any
    run: Run
    other: Run

    @property
    def samples(self) -> tuple[Sample, Sample] | None:
        """Test accuracies with the value and with the default; None if seeds failed."""
        if self.run.failed or self.other.failed:
            return None
        return sample(self.run), sample(self.other)

    @property
    def found(self) -> Difference | None:
        """Accuracy with the value less that with the default, in points."""
        return difference(*self.samples) if self.samples else None


def effects_table(records: Records) -> Table:
    """The effect of each setting for which there is a pair of runs on record."""
    found = effects_of(records)
    return Table(
        title="Effects of single settings",
        caption=[
            "Pairs of runs on record with the same layer and data that differ in one setting, of "
            "which one has the default.",
            "Test accuracy in percent, mean ± standard error over n seeds. Difference: of the "
            "means, value less default, in points, with a 95 % interval (Welch's t-test over "
            "seeds), without correction for the number of lines.",
            "Labels: everything in which the run with the default is not the paper's.",
        ],
        header=HEADER,
        rows=[text(one) for one in found],
        values=[values(one) for one in found],
        alignment="lllllrrrl",
    )


def effects_of(records: Records) -> list[Effect]:
    """All pairs, by name of the setting."""
    pairs = [pair for run in records.runs.values() for pair in pairs_of(run, records.runs)]
    return sorted(pairs, key=lambda one: (one.setting, str(one.value), one.other.first.file_name))


def left_to(effects: Sequence[Effect]) -> Callable[[Set[str]], Set[str]]:
    """The runs, by identity, of a small table that the table of effects has in its place.

    These are the runs with a value other than the default, and a run that is alone in its table.
    """
    variants = {one.run.identity for one in effects}
    alone = variants | {one.other.identity for one in effects}
    return lambda runs: runs & (alone if len(runs) == 1 else variants)


def pairs_of(run: Run, runs: Mapping[str, Run]) -> Iterator[Effect]:
    """A run beside each run that differs from it in one setting, and has its default there."""
    default, structure = defaults(run.run), layer_of(run.run["layer"]).STRUCTURE
    for section, settings in changed(run.run).items():
        for name, usual in default.get(section, {}).items():
            if name in settings and not (section == "layer" and name in structure):
                other = counterpart(run, section, name, usual, runs)
                if other:
                    yield Effect(f"{section}.{name}", settings[name], usual, run, other)


def counterpart(
    run: Run, section: str, name: str, value: Any, runs: Mapping[str, Run]
) -> Run | None:
    """The run with another value of one setting, if it is on record."""
    wanted = {**run.run, section: {**run.run[section], name: value}}
    if (section, name) != ("dataset", "translate_train"):
        return runs.get(identity(wanted))

    # The places of training images are a part of the fingerprint.
    def described(run: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        return changed({**run, "dataset": {**run["dataset"], "fingerprint": data}})

    same = described(wanted, run.data)
    return next((each for each in runs.values() if described(each.run, each.data) == same), None)


def text(one: Effect) -> list[str]:
    """The text of a pair."""
    return [
        one.setting,
        str(one.value),
        str(one.default),
        one.other.data_title,
        one.other.label,
        accuracy(one.run),
        accuracy(one.other),
        one.found.text() if one.found else EMPTY,
        "; ".join(labels(one.other)),
    ]


def accuracy(run: Run) -> str:
    """Test accuracy with the number of seeds, or the failed seeds."""
    if run.failed:
        return f"FAILED seeds: {', '.join(run.failed)}"
    found = sample(run)
    error = "" if found.error is None else f" ± {found.error:.2f}"
    return f"{found.mean:.2f}{error} (n = {found.seeds})"


def values(one: Effect) -> dict[str, object]:
    """The values of a pair."""
    with_value, with_default = one.samples or (None, None)
    return {
        "setting": one.setting,
        "value": str(one.value),
        "default": str(one.default),
        "dataset": one.other.data_title,
        "train_images": one.other.data["train"],
        "epochs": one.other.run["protocol"]["epochs"],
        "row": one.other.label,
        "value_mean": with_value and with_value.mean,
        "value_se": with_value and with_value.error,
        "value_seeds": len(one.run.seeds),
        "default_mean": with_default and with_default.mean,
        "default_se": with_default and with_default.error,
        "default_seeds": len(one.other.seeds),
        "difference": one.found and one.found.value,
        "low": one.found and one.found.low,
        "high": one.found and one.found.high,
        "labels": "; ".join(labels(one.other)),
        "identity": one.run.identity,
        "default_identity": one.other.identity,
    }
