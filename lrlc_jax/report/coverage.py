"""How much of the paper is on record: the runs of its tables and figures, by study and data set."""

import dataclasses
from collections.abc import Sequence

from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.identity import hashed
from lrlc_jax.experiments.record import Records
from lrlc_jax.experiments.study import members, study_layers
from lrlc_jax.report import paper
from lrlc_jax.report.beside import TITLES
from lrlc_jax.report.results import StudyResults, labels, study_results
from lrlc_jax.report.tables import Table
from lrlc_jax.training.train import PAPER_PROTOCOL

PAPER, MAIN = "paper", "essentials"  # names of studies: everything, and the runs to begin with
MOST = PAPER_PROTOCOL.seeds


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Runs of a study on a data set.

    Attributes:
        runs: number of runs of the study.
        seeds: seeds on record with the paper's data, protocol and network, at most 10 of each run.
        otherwise: runs on record with other settings, of those with most runs.
    """

    runs: int
    seeds: int
    otherwise: int


def coverage_table(studies: Sequence[StudyConfig], records: Records) -> Table | None:
    """A row for each study of the paper; None if no run of the paper's data sets is on record."""
    known = {study.name: study for study in studies}
    if PAPER not in known:
        return None
    every = members(known[PAPER], studies)
    groups = {name: [known[name]] for name in (MAIN,) if name in known}
    groups |= {study.name: [study] for study in every} | {PAPER: every}
    results = {
        study.name: study_results(study, records) for group in groups.values() for study in group
    }
    rows, values = [], []
    for name, group in groups.items():
        found = {
            dataset: covered([(study, results[study.name]) for study in group], dataset)
            for dataset in paper.columns()
        }
        runs = next(iter(found.values())).runs
        rows.append([name, str(runs), *(text for one in found.values() for text in texts(one))])
        values += [
            {"study": name, "dataset": dataset, **dataclasses.asdict(one)}
            | {"seeds_wanted": one.runs * MOST, "command": command(name, dataset)}
            for dataset, one in found.items()
        ]
    if not any(line["seeds"] or line["otherwise"] for line in values):
        return None
    return Table(
        title="The runs of the paper on record",
        caption=[
            f"Paper: seeds on record, of {MOST} for each run, with all images, the paper's "
            "protocol and its network. Other: runs on record with other data or protocol or "
            "network, with the settings that have most; they are not the paper's. Studies share "
            f"runs: {PAPER} has each once.",
            f"Command: {command(next(iter(groups)), paper.columns()[0])}",
        ],
        header=(
            *("Study", "Runs"),
            *(f"{TITLES[name]}, {what}" for name in paper.columns() for what in ("paper", "other")),
        ),
        rows=rows,
        values=values,
        alignment="lr" + "rr" * len(paper.columns()),
    )


def covered(group: Sequence[tuple[StudyConfig, Sequence[StudyResults]]], dataset: str) -> Coverage:
    """The runs of studies on a data set of the paper, moved in noise if a study moves it."""
    layers: set[tuple[int | None, str]] = set()
    like_paper: dict[str, int] = {}
    otherwise: dict[str, set[str]] = {}
    for study, results in group:
        moved = study.dataset.get("translate")
        layers |= {(moved, hashed(each.simplest().canonical())) for each in study_layers(study, {})}
        for one in results:
            data = one.setting["dataset"]
            if (data["name"], data["translate"]) != (dataset, moved) or one.options:
                continue
            if any(labels(run) for run in one.known.values()):
                otherwise.setdefault(hashed(one.setting), set()).update(one.known)
            else:
                like_paper |= {name: min(len(r.seeds), MOST) for name, r in one.known.items()}
    fullest = max(map(len, otherwise.values()), default=0)
    return Coverage(len(layers), sum(like_paper.values()), fullest)


def texts(one: Coverage) -> tuple[str, str]:
    """Seeds with the paper's settings, and runs with others."""
    seeds = f"{one.seeds} of {one.runs * MOST} seeds"
    return seeds, f"{one.otherwise} of {one.runs} runs" if one.otherwise else "-"


def command(study: str, dataset: str) -> str:
    """The command that goes on: every run gets a seed before any gets two."""
    options = f"protocol=paper dataset={dataset} seeds_per_visit=1"
    return f"python scripts/sweep.py study={study} {options}"
