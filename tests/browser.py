"""A real browser for the tests of the report page."""

import os
import shutil
import subprocess
import sys

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests import handmade
from tests.project import ROOT

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


@pytest.fixture(scope="module")  # its event loop would be in the way of other files' own
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


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A finished experiment of tiny tables, and its report."""
    folder = tmp_path_factory.mktemp("page") / "<b>a & b"
    handmade.experiment(folder)
    command = [sys.executable, "-m", "stages.report", "--cell", "creport", "--out", "data/report"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def visit(chromium, made):
    """Open the page; afterwards the console must be empty and nothing have been asked for."""
    said, asked, contexts = [], [], []

    def opened(place="", width=1280, scheme="light", path=None):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("a dialog"), dialog.dismiss()))
        url = (path or made / "data/report/index.html").as_uri()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url + place)
        page.wait_for_selector("html[data-drawn]", timeout=30_000)
        asked[:] = [u for u in asked if not u.startswith((url, "data:"))]
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not said, said
    assert not asked, asked


def no_barrier(page):
    """All that axe-core tests, unfolded as well: contrast, names, roles, order of headings."""
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
