"""The site of docs/: what is in it, where its links lead, and that nothing comes from outside."""

import http.server
import re
import subprocess
import sys
import threading
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from ruamel.yaml import YAML

from tests import browser
from tests.project import ROOT

LOADS = {"src", "srcset", "data", "poster"}  # attributes by which a page loads something
RELATIONS = {"canonical", "next", "prev"}  # links that a browser does not follow by itself
LINK = re.compile(r"\]\(([^)\s#:]+)(?=[#)])")
KEPT = "smollm2-report.html"
chromium = browser.chromium


class Read(HTMLParser):
    """What a page links to, what it loads, and its ids."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id"))
        self.loads += [values[name] for name in LOADS & values.keys()]
        if tag == "link" and not RELATIONS & set(values.get("rel", "").split()):
            self.loads.append(values["href"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make site` does; any warning fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages(site):
    """The pages that mkdocs wrote: the kept report of an example is none."""
    written = (path for path in site.glob("*.html") if path.name not in {"404.html", KEPT})
    return {path.name: Read(path) for path in written}


def named(nav):
    """Paths of a part of mkdocs.yml's nav."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [path for part in parts for path in named(part)]


def test_every_page_of_docs_and_every_link_of_the_readme_is_in_the_navigation(site):
    reader = YAML(typ="safe", pure=True)
    listed = named(reader.load((ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]))
    assert sorted(path.replace(".md", ".html") for path in listed) == sorted(pages(site))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(listed)
    start = pages(site)["index.html"].links
    for target in LINK.findall((ROOT / "README.md").read_text()):
        assert (ROOT / target).is_file(), target
    inner = {urlsplit(link).path for link in start if not urlsplit(link).scheme}
    assert inner - {"", ".", "index.html"} <= set(pages(site))


def test_no_internal_link_is_broken(site):
    read = pages(site)
    for name, page in read.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = unquote(parts.path) or name
            target = "index.html" if target == "." else target
            assert (site / target).is_file(), (name, link)
            if parts.fragment and target in read:
                assert unquote(parts.fragment) in read[target].ids, (name, link)


def test_no_page_and_no_style_loads_anything_from_outside(site):
    for page in map(Read, site.glob("*.html")):
        assert page.loads
        assert not [load for load in page.loads if urlsplit(load).netloc], page.loads
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), style


def test_the_citation_and_the_changelog_have_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = YAML(typ="safe", pure=True).load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == version
    assert version in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1440, 390])
def test_a_browser_asks_for_nothing_outside_and_finds_what_is_searched(site, chromium, width):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(site))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}/"
        asked, said = [], []
        page = chromium.new_page(viewport={"width": width, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for name in sorted(pages(site)):
            page.goto(root + name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.keyboard.press("/")
        page.keyboard.type("shuffled")
        page.wait_for_selector(".md-search-result__item", timeout=30_000)
        page.close()
        server.shutdown()
    assert not [url for url in asked if not url.startswith((root, "data:"))]
    assert not said
