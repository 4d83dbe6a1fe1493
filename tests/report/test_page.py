"""The page holds everything, escapes what records say, and works in a browser."""

import html as markup
import json
import re
import shutil
import subprocess

import pytest

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.record import Records, group, read_records
from lrlc_jax.experiments.study import load_studies
from lrlc_jax.report.build import build
from lrlc_jax.report.page import overview, page
from lrlc_jax.report.tables import Table
from lrlc_jax.report.verdicts import VERDICTS, claims, not_run, verdicts
from tests.conftest import ROOT
from tests.experiments.examples import example

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# Clicks twice on each head of the first sortable table, moves over the first learning curve.
USE = r"""
<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message));
const table = document.querySelector("table.sortable"), column = (i) =>
  [...table.tBodies[0].rows].map((row) => row.cells[i].textContent.trim());
const sorted = [...table.tHead.rows[0].cells].map((head, i) => {
  const states = [];
  for (const _ of [0, 1]) {
    head.querySelector("button").click();
    states.push([head.getAttribute("aria-sort"), column(i)]);
  }
  return states;
});
const svg = document.querySelector(".curve svg"), box = svg.getBoundingClientRect();
const at = {clientX: box.left + box.width / 2, clientY: box.top + 5};
svg.dispatchEvent(new PointerEvent("pointermove", at));
// Contrast of text and background, by WCAG 2.
const light = (color) => color.match(/[\d.]+/g).slice(0, 3).map(Number)
  .map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const back = (node) => {
  const color = getComputedStyle(node).backgroundColor;
  return /, 0\)$/.test(color) && node.parentElement ? back(node.parentElement) : color;
};
const texts = ["p", "td", "th", ".verdict", ".quiet", "summary", "code", "output"];
const contrast = texts.map((name) => {
  const node = document.querySelector(name);
  const pair = [light(getComputedStyle(node).color), light(back(node))].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
});
const result = {
  errors, sorted, contrast, dark: matchMedia("(prefers-color-scheme: dark)").matches,
  hover: document.querySelector(".curve output").textContent,
  images: [...document.images].map((image) => image.complete && image.naturalWidth > 0),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
};
document.body.append(Object.assign(document.createElement("pre"),
  {id: "result", textContent: JSON.stringify(result)}));
</script>
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The page of the published records."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(ROOT / "results" / "published" / "records", folder / "records")
    build(load_studies(ROOT / "configs"), str(folder))
    return folder / "report.html"


@pytest.mark.slow
def test_the_page_needs_no_other_file_and_is_small(published):
    html = published.read_text()
    assert len(html) < 4 * 2**20
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", html)
    assert "http://" not in re.sub(r"base64,[^\"]*", "", html)


@pytest.mark.slow
def test_the_page_has_every_claim_on_record_and_every_table(published):
    html = published.read_text()
    records = read_records(published.parent)
    for verdict in verdicts(records):
        assert verdict.claim.text.replace("'", "&#39;") in html
    tables = list((published.parent / "tables").glob("*-accuracy.md"))
    assert html.count('<table class="sortable">') >= len(tables) > 0


def test_what_records_say_is_escaped():
    odd = "<script>alert(1)</script>\" onload='x'"
    records = group([(ROOT / "a", example(notes=["PARTIAL"]))])
    table = Table(odd, [odd], (odd,), [[odd]], alignment="l")
    html = page(records, [], [table], [], {odd: b"<svg/>"})
    assert odd not in html
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert") >= 4


def test_without_records_every_claim_is_not_run():
    html = markup.unescape(page(Records({}), [], [], [], {}))
    for claim in claims():
        assert html.count(claim.text) == 2  # overview and section
        assert all(claim.command(name) in html for name in not_run(claim, []))


def test_the_overview_has_the_verdicts_of_the_data_sets_on_record():
    files = [
        (ROOT / name, example(name, dataset=DatasetConfig(name="mnist", source="files")))
        for name in ("conv", "lrlc", "coord_conv")
    ]
    records = group(files)
    judged = verdicts(records)
    found = overview(records, judged)
    assert len(found["columns"]) == 3
    assert {text for _, (_, *others) in found["rows"] for text, _ in others} == {"", "not run"}
    by_claim = {text: mnist for text, (mnist, *_) in found["rows"]}
    for one in judged:
        word, counts = by_claim.pop(one.claim.text)
        assert word == one.verdict
        parts = [part.verdict for part in one.parts]
        words = [f"{parts.count(each)} {each}" for each in VERDICTS if each in parts]
        assert counts == (", ".join(words) if len(words) > 1 else "")
    assert {*by_claim.values()} == {("", ""), ("not run", "")}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
@pytest.mark.parametrize(("width", "dark"), [(400, True), (1400, False)])
def test_a_browser_draws_all_figures_sorts_tables_and_shows_values(
    published, tmp_path, width, dark
):
    used = tmp_path / "used.html"
    used.write_text(published.read_text() + USE)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},1000"]
    options += ["--force-dark-mode"] if dark else []
    answer = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", used.as_uri()],
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="result">(.*)</pre>', answer.stdout)
    assert found, answer.stderr

    result = json.loads(markup.unescape(found[1]))
    assert result["errors"] == []
    assert result["dark"] == dark
    assert min(result["contrast"]) >= 4.5
    assert result["images"]
    assert all(result["images"])
    assert "epoch" in result["hover"]
    assert "validation" in result["hover"]
    assert result["wide"] <= 0  # wide tables scroll, not the page
    for (up, ascending), (down, descending) in result["sorted"]:
        assert (up, down) == ("ascending", "descending")
        assert ascending == descending[::-1] or len({*ascending}) < len(ascending)
