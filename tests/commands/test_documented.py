"""The commands that README and docs/ show: each exists and takes the options that are shown."""

import re
import shlex

import pytest
import typer

from pipeline.commands import app
from tests.project import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(?<!`)`(omniopd [^`]+)`(?!`)")


def shown(page):
    """Command lines that begin with omniopd, of blocks and of text."""
    text = page.read_text(encoding="utf-8")
    lines = "".join(BLOCK.findall(text)).replace("\\\n", " ").split("\n")
    lines += [" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text))]
    for line in lines:
        for part in line.split("&&"):
            found = re.match(r"\s*(?:\w+\$ )?\s*omniopd (.*)", part.split("  #")[0])
            if found:
                yield found[1].strip()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_command_that_is_shown_exists_and_takes_its_options(page):
    root = typer.main.get_command(app.app)
    for line in shown(page):
        command, words = root, shlex.split(line.replace("[", "").replace("]", ""))
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{page.name}: omniopd {line}"
            command = command.commands[words.pop(0)]
        known = {name for option in command.params for name in option.opts}
        known |= {name for option in command.params for name in option.secondary_opts}
        if command.context_settings.get("ignore_unknown_options"):
            continue
        for word in words:
            if re.match(r"--?[a-zA-Z]", word):
                assert word.split("=")[0] in known, f"{page.name}: omniopd {line}"
