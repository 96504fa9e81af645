"""The page in a real browser, on a laptop and on a telephone."""

import html
import json
import re
import shutil
import subprocess

import pytest
from left import options

from espnet_prune.cli import report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# What stands out of the window, and pictures without a text in their place.
LOOK = """
<script>addEventListener("load", () => {
  const width = document.documentElement.clientWidth;
  const out = [...document.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll > *") && e.getBoundingClientRect().right > width + 1);
  const mute = [...document.images].filter(i => !i.alt || !i.naturalWidth);
  const main = document.querySelector("table");
  parent.postMessage({width, out: out.map(e => e.outerHTML.slice(0, 90)),
    mute: mute.length, images: document.images.length,
    cut: main.scrollWidth - main.parentElement.clientWidth}, "*");
})</script>
"""
# A window is 500 pixels wide at least.
FRAME = """<!DOCTYPE html><title></title><script>
addEventListener("message", e => document.title = JSON.stringify(e.data));
</script><iframe src="look.html" style="border: 0" width="{width}"></iframe>
"""


def look(page, width):
    """Load a page in a frame of so many pixels, and return what it says of itself."""
    page.with_name("look.html").write_text(page.read_text() + LOOK)
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(width=width))
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={page.parent / 'profile'}",
            "--window-size=1400,1000", "--dump-dom", "--virtual-time-budget=5000",
            frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title and title[1].startswith("{"), done.stderr[-2000:]
    return json.loads(html.unescape(title[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 400])
def test_page_fits_the_window(rendered, full, width):
    report.main(options(full))
    found = look(full / "out/report.html", width)
    assert found["width"] in range(width - 20, width + 1)  # a scroll bar
    assert found["out"] == [] and found["mute"] == 0 and found["images"] == 5
    assert found["cut"] <= 0 or width < 1000  # narrower ones scroll in their frame
