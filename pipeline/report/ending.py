"""The last lines of `omniopd repro` and `run`: the results, where the page is, what it took."""

import re
import shutil
import textwrap

from tabulate import tabulate

from pipeline.stage.run_records import DATA

REPORT = DATA / "report"
COLUMNS = (
    *("arm", "sampled avg@k", "diff to base", "greedy", "teacher tokens"),
    *("seed", "of", "agreement", "judge", "share"),
)
CONCLUSIONS = ("## Verdicts", "## What was seen")
PAGE = f"page: {REPORT / 'index.html'}"
WIDEST = 100  # of a sentence's lines


def stamp() -> int | None:
    """When the report was written, in ns; None where there is none."""
    file = REPORT / "run.json"
    return file.stat().st_mtime_ns if file.is_file() else None


def result(before: int | None) -> str:
    """Table, verdicts and page, where the report is not that of `before` any more; else nothing."""
    if stamp() == before:
        return ""
    found = shown((REPORT / "results.md").read_text(encoding="utf-8"))
    return f"\n{found}\n\n{PAGE} (more columns: {REPORT / 'results.md'})\n"


def shown(markdown: str) -> str:
    """The tables of results.md with the columns that decide, and what it concludes from them."""
    parts: list[str] = []
    table: list[list[str]] = []
    concluding = False
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("## "):
            if concluding:
                break
            concluding = line in CONCLUSIONS
        elif line.startswith("|") and not concluding:
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            parts.append(_narrow(table))
            table = []
        elif line.startswith("### ") and not concluding:  # the task of the table that follows
            parts.append(line.removeprefix("### "))
        elif line and concluding:
            parts.append(_sentence(line.replace("**", "")))
    joined = "\n\n".join(parts)
    return re.sub(r"\n\n(?=- )", "\n", joined).replace("\n- ", "\n\n- ", 1)


def _narrow(table: list[list[str]]) -> str:
    head, body = table[0], table[2:]
    kept = [i for i, name in enumerate(head) if name in COLUMNS]
    kept = kept if len(kept) > 1 else list(range(len(head)))  # a table without any of them is whole
    rows = [[row[i] for i in kept] for row in body]
    return tabulate(rows, [head[i] for i in kept], tablefmt="simple", disable_numparse=True)


def _sentence(line: str) -> str:
    indent = "  " if line.startswith("- ") else ""
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False)
