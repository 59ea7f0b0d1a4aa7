"""The report as a browser shows it: headless Chromium, no network, light and dark.

A probe is added to a copy of the page, beside it; the page itself is what is checked for console errors.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from paretune.report import study_page, write_report
from paretune.search import Categorical, Float, Space, minimize
from paretune.search._look.story import story

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here: apt-get install chromium (.ci/run installs it)"
)
SCHEMES = {"light": 1, "dark": 0}
"""Blink's numbers of the preferred colour scheme."""

PROBE = """
const channels = (text) => text.match(/[\\d.]+/g).map(Number);
const paper = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = channels(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
  }
};
const seen = [];
for (const element of document.querySelectorAll("body *:not(script):not(style)")) {
  const words = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join("");
  if (!words || !element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const ink = channels(element.closest("svg") ? style.fill : style.color).slice(0, 3);
  seen.push({words: words.slice(0, 60), ink, paper: paper(element)});
}
const tip = document.getElementById("tip");
const best = document.querySelector(".point.best");
best.dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
const shown = {hidden: tip.hidden, words: tip.textContent, box: tip.getBoundingClientRect().toJSON(),
               lit: [...document.querySelectorAll("tr.lit")].map((row) => row.dataset.candidate)};
document.querySelector("h1").dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
const out = document.createElement("script");
out.type = "application/json";
out.id = "probe";
out.textContent = JSON.stringify({
  seen, shown, hiddenAgain: tip.hidden, background: paper(document.body),
  width: document.documentElement.scrollWidth, window: innerWidth,
  drawings: [...document.querySelectorAll(".charts svg")].map((svg) => svg.getBoundingClientRect().toJSON()),
  titles: document.querySelectorAll("[data-tip] > title").length,
}).replaceAll("<", "\\\\u003c");
document.body.append(out);
"""


def browse(page: Path, scheme: str, *options: str, width: int = 1200) -> subprocess.CompletedProcess[str]:
    """Load a page with every name unresolvable and return what Chromium wrote."""
    assert BROWSER is not None
    return subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-extensions",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", f"--window-size={width},1000",
            "--enable-logging=stderr", "--v=0", *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "HOME": str(page.parent)},
    )  # fmt: skip


def probed(folder: Path, scheme: str, width: int = 1200) -> dict[str, Any]:
    """Return what the probe saw in a copy of the report (whose policy would forbid the probe)."""
    content = write_report(folder).read_text()
    content, found = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", content)
    assert found == 1
    page = folder / "probed.html"
    page.write_text(content.replace("</body>", f"<script>{{{PROBE}}}</script></body>"))
    dom = browse(page, scheme, "--dump-dom", width=width).stdout
    match = re.search(r'<script type="application/json" id="probe">(.*?)</script>', dom, re.DOTALL)
    assert match, "the probe did not run"
    return json.loads(unescape(match.group(1)))  # type: ignore[no-any-return]


def luminance(colour: list[float]) -> float:
    """Return the relative luminance of sRGB in 0 to 255 (WCAG 2.2, definition of relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(ink: list[float], paper: list[float]) -> float:
    high, low = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_of_black_on_white_is_21_and_of_a_known_grey_4_5() -> None:
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([0x76] * 3, [255] * 3) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_renders_offline_without_a_console_error(folder: Path, scheme: str) -> None:
    result = browse(write_report(folder), scheme, "--dump-dom")
    assert [line for line in result.stderr.splitlines() if "CONSOLE" in line] == []
    assert "within 1 point" in result.stdout
    assert "<title>quantized" not in result.stdout  # its script ran: the page's own tip replaced the browser's


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_of_a_study_renders_without_a_console_error(tmp_path: Path, scheme: str) -> None:
    space = {"x": Float(0, 1), "opt": Categorical(["sgd", "adam"])}
    result = minimize(lambda config, budget: config["x"] + 1 / budget, space, {"bohb": {"max": 9}}, budget=40)
    trials = [replace(t, finished=datetime(2026, 1, 1) + timedelta(seconds=t.number)) for t in result.trials]
    page = tmp_path / "study.html"
    page.write_text(
        study_page(story(Space(space), trials, (1, 3, 9), name="small", method="bohb", found=result.found))
    )
    shown = browse(page, scheme, "--dump-dom")
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []
    assert "Least loss" in shown.stdout and "<title>9: " not in shown.stdout  # its script ran


def test_a_console_error_would_be_seen(folder: Path) -> None:
    page = write_report(folder)
    page.write_text(page.read_text().replace("</body>", "<script>alert(1)</script></body>"))
    stderr = browse(page, "light", "--dump-dom").stderr
    assert any("CONSOLE" in line and "Content Security Policy" in line for line in stderr.splitlines())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_is_readable_and_the_page_fits(folder: Path, scheme: str) -> None:
    probe = probed(folder, scheme)
    assert (luminance(probe["background"]) > 0.5) is (scheme == "light")
    assert len(probe["seen"]) > 150
    faint = [entry for entry in probe["seen"] if contrast(entry["ink"], entry["paper"]) < 4.5]  # WCAG AA
    assert faint == []
    assert probe["width"] <= probe["window"]
    assert len(probe["drawings"]) == 6  # two fronts; loss and metric of two trainings
    assert all(box["width"] > 300 and box["height"] > 150 for box in probe["drawings"])


def test_hovering_over_a_point_shows_its_numbers_and_lights_its_row(folder: Path) -> None:
    probe = probed(folder, "light")
    shown = probe["shown"]
    assert not shown["hidden"] and probe["hiddenAgain"]
    assert shown["words"].splitlines()[0] == "quantized"
    assert "0.14x (0.13 to 0.15), faster" in shown["words"] and "271 KB, 0.066x" in shown["words"]
    assert shown["lit"] == ["quantized"]
    assert shown["box"]["x"] >= 0 and shown["box"]["right"] <= probe["window"]
    assert probe["titles"] == 0


def test_it_fits_a_narrow_window(folder: Path) -> None:
    probe = probed(folder, "dark", width=500)
    assert probe["width"] <= probe["window"] <= 500


def test_it_prints(folder: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    browse(write_report(folder), "dark", f"--print-to-pdf={pdf}")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12
