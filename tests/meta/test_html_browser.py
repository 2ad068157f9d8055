"""The HTML report in a real browser: it fits a phone and a desk, and asks for nothing."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from test_reports import some

from ptq.report import html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--virtual-time-budget=5000",
]
PROBE = """<!DOCTYPE html><body><iframe style="width:{width}px;height:900px;border:0" src="{page}"></iframe><pre></pre>
<script>onload = () => {{
  const inside = document.querySelector("iframe").contentWindow, page = inside.document
  document.querySelector("pre").textContent = [
    page.documentElement.scrollWidth, page.querySelectorAll("figure svg polyline").length,
    inside.performance.getEntriesByType("resource").length, page.querySelector("figure svg").clientHeight > 100,
  ].join(" ")
}}</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]


def chromium(tmp_path: Path, *arguments: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_the_width_and_asks_for_nothing(width: int, tmp_path: Path) -> None:
    html.write(tmp_path / "report.html", some())
    (tmp_path / "probe.html").write_text(PROBE.format(width=width, page="report.html"))
    seen = chromium(tmp_path, "--window-size=1400,1000", "--dump-dom", (tmp_path / "probe.html").as_uri())
    assert f"<pre>{width} 2 0 true</pre>" in seen


def test_it_prints_and_is_not_blank(tmp_path: Path) -> None:
    html.write(tmp_path / "report.html", some())
    page = (tmp_path / "report.html").as_uri()
    chromium(tmp_path, "--window-size=800,1000", f"--screenshot={tmp_path / 'shot.png'}", page)
    shot = (tmp_path / "shot.png").read_bytes()
    assert struct.unpack(">II", shot[16:24]) == (800, 1000)
    assert len(shot) > 20_000  # a blank page of that size is under 5 kB
    chromium(tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", page)
    assert (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"
