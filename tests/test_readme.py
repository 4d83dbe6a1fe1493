"""The README shows what the commands really print."""

import json
import re

import pytest

from lrlc_jax.data.sources import SOURCES
from lrlc_jax.experiments.record import read_records
from lrlc_jax.report.beside import TITLES, gains, nearest
from tests.conftest import ROOT

DATA = (ROOT / "docs" / "data.md").read_text()
README = (ROOT / "README.md").read_text()
REPLICATION = (ROOT / "docs" / "replication.md").read_text()


@pytest.mark.parametrize("page", [README, REPLICATION], ids=["README", "replication"])
def test_the_tables_are_the_published_ones(page):
    shown = re.findall(r"<!-- (\S+) -->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert shown
    for path, text in shown:
        _title, _, table = (ROOT / path).read_text().partition("\n")
        assert text.strip() == table.strip()


@pytest.mark.parametrize("page", [README, REPLICATION], ids=["README", "replication"])
def test_the_gains_are_those_on_record(page):
    number = r"[+-]\d+\.\d\d"
    sentence = (
        rf"({number}(?: \[{number}, {number}\])?) points on (\S+) \(paper: ({number}); n = (\d+)\)"
    )
    text = " ".join(page.split())
    said = re.findall(sentence, text)
    assert len(said) == text.count("; n = ") >= 3
    rows = nearest(read_records(ROOT / "results" / "published"))
    for ours, title, theirs, seeds in said:
        (name,) = (name for name in TITLES if TITLES[name] == title)
        assert any(
            ours == gain.ours.text()
            and theirs == f"{gain.paper.value:+.2f}"
            and int(seeds) == gain.seeds
            for gain in gains(name, rows[name])
        ), (ours, title)


def test_every_file_that_it_names_exists():
    for path in re.findall(r"\]\(((?!http|#)[^)#]+)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(?:configs|scripts|lrlc_jax)/[\w/]+\.(?:py|yaml)", README):
        assert (ROOT / path).exists(), path


def test_every_make_target_that_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_figures_of_the_data_are_the_published_ones():
    found = [
        json.loads(p.read_text()) for p in (ROOT / "results" / "published").rglob("statistics.json")
    ]
    assert not any(entry["code"]["dirty"] for entry in found)
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| (\d\.\d{3}) \| (\d\.\d{3}) \|$", DATA, re.M)
    assert len(rows) == 7
    for name, count, neighbours, alignment in rows:
        title, _, part = name.partition(" (")
        assert any(
            entry["data"].split(";")[0] == title
            and part.rstrip(")") in entry["data"]
            and f"{entry['count']:,}" == count
            and f"{entry['neighbours']:.3f}" == neighbours
            and f"{entry['alignment']:.3f}" == alignment
            for entry in found
        ), name


def test_the_fingerprints_of_the_data_are_those_that_are_checked():
    for name, source in SOURCES.items():
        expected = f"`{source.fingerprint}`" if source.fingerprint else "unknown.*"
        assert re.search(rf"^\| `{name}` .*{expected} \|$", DATA, re.M)


def test_no_picture_of_single_faces_is_published():
    folders = (ROOT / "results" / "published" / "data").glob("celeba*")
    assert {p.name for folder in folders for p in folder.glob("*.png")} == {"correlation.png"}
