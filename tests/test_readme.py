"""The README shows what the commands really print."""

import json
import re

from lrlc_jax.data.sources import SOURCES
from tests.conftest import ROOT

DATA = (ROOT / "docs" / "data.md").read_text()
README = (ROOT / "README.md").read_text()


def test_the_table_is_the_published_one():
    path, shown = re.search(r"<!-- (\S+) -->\n(.*?)<!-- end -->", README, re.DOTALL).groups()
    _title, _, table = (ROOT / path).read_text().partition("\n")
    assert shown.strip() == table.strip()


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
