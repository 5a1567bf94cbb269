"""Pages in a headless Chromium; tests that need it are skipped where it is missing, but in CI they fail."""

import os
import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def chromium():
    """A browser, closed at the end."""
    from playwright.sync_api import sync_playwright

    if not shutil.which("chromium"):
        reason = "chromium is not installed; on Debian: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        yield opened
        opened.close()


def legend(page) -> dict[str, str]:
    """The rows of a map's legend: band -> number of photos."""
    rows = page.locator(".legend div")
    return {row.locator("span").inner_text(): row.locator("em").inner_text() for row in rows.all()}
