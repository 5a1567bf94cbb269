"""Pages in a headless Chromium, started once for all tests; without it they are skipped, but in CI they fail."""

import atexit
import json
import os
import re
import shutil
from functools import cache

import pytest


@cache
def chromium():
    """The browser; whoever opens a page closes it."""
    from playwright.sync_api import sync_playwright

    if not shutil.which("chromium"):
        reason = "chromium is not installed; on Debian: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    play = sync_playwright().start()
    atexit.register(play.stop)
    return play.chromium.launch(executable_path=shutil.which("chromium"), args=flags)


def legend(page) -> dict[str, str]:
    """The rows of a map's legend: band -> number of photos."""
    rows = page.locator(".legend div")
    return {row.locator("span").inner_text(): row.locator("em").inner_text() for row in rows.all()}


def drawn_data(page: str):
    """What a map's page draws, read back: the photos and stages of an error or answer map, the groups of twins."""
    elements = re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', page, re.DOTALL)
    return [json.loads(text) for name, text in elements if name != "borders"][-1]
