"""Pages of the site whose files lie outside docs/, and the links between all pages.

mkdocs calls these functions (mkdocs.yml). A link in a file is relative to that file, as code hosts
read it; here it becomes a link between pages. One to a file that is no page fails a strict build.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "LOG.md": "log.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results.md": "benchmarks.md",
    "benchmarks/simulated.md": "simulated.md",
    "extensions/README.md": "extensions.md",
    "findings/README.md": "findings.md",
    "examples/smollm2/README.md": "smollm2.md",
    "examples/smollm2/params.yaml": "smollm2.yaml",
    "examples/smollm2/page.png": "smollm2.png",
    "examples/smollm2/index.html": "smollm2-report.html",
}
SOURCES = {page: source for source, page in ELSEWHERE.items()}
LINK = re.compile(r"\]\(([^)\s#:]+)(?=[#)])")
CODE = re.compile(r"`[^`]+`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of ELSEWHERE."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between pages; and in a table `a|b`, which code hosts want written `a\\|b`."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def linked(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return "](" + ELSEWHERE.get(target, target.removeprefix("docs/"))

    def row(line: str) -> str:
        plain = CODE.sub(lambda code: code[0].replace(r"\|", "|"), line)
        return plain if line.startswith("|") else line

    return "\n".join(row(line) for line in LINK.sub(linked, markdown).split("\n"))
