"""A real browser for the tests of the report page."""

import os
import shutil
import subprocess

import pytest

ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 400  # for the distribution's packages


def executable() -> str | None:
    """Chromium's path, after installing the distribution's package where we may."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        _apt("update")
        _apt("install", "-y", "--no-install-recommends", "chromium")
        found = shutil.which("chromium")
    return found


def _apt(*arguments: str) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(
        ["apt-get", "-qq", *arguments], env=env, capture_output=True, check=False, timeout=SECONDS
    )


@pytest.fixture(scope="session")
def chromium():
    """The browser. Skips, and says so, where there is none and none can be installed."""
    path = executable()
    if path is None:
        pytest.skip("no chromium here, and apt-get as root is not available to install it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()
