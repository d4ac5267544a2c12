"""The analysis of the code against what cells do: whatever they call is in their locks."""

import json
import shutil
import sys

import pytest

from pipeline.code_digest import files, variants
from pipeline.code_digest.reading import digest
from pipeline.code_digest.reading.closure import Reader
from pipeline.code_digest.reading.source import Tree
from tests.conftest import ARMS
from tests.project import MACHINERY, ROOT, Project

OF_MACHINERY = {
    ("pipeline/core/chosen.py", "file_of"),  # called by it, to tell a cell's variant
    ("pipeline/config/renamed.py", "renamed"),  # where a block is declared that other cells read
}


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 2])
def test_every_function_that_a_cell_calls_is_in_its_lock(tmp_path, rounds):
    """With two rounds as one cell of two steps. Symbols are told apart by the files they are of."""
    project = Project(tmp_path / "project")
    alone = ("multi-teacher", "soda", "repair", "state-value", "prompt-gate")  # a round a cell
    arms = [arm for arm in ARMS if arm not in alone or rounds == 1]
    project.edit(
        experiment__arms=arms, experiment__rounds=rounds, experiment__steps_per_cell=rounds
    )
    project.run("omniopd", "plan")
    shutil.copytree(ROOT / "tests", project.folder / "tests")
    project.run(sys.executable, "-m", "tests.cellwise", CALLS="1")
    called = json.loads((project.folder / "called.json").read_text())
    groups, reader = project.plan()["cells"], Reader(Tree(files.read(project.folder)))
    held: dict[str, set[tuple[str, str]]] = {}
    beyond, count = set(), 0
    for name, calls in called.items():
        group, _, key = name.partition("@")
        variant = variants.of(group, groups[group][key])
        if variant.name not in held:
            places = digest.code(reader, variant).places
            held[variant.name] = {(path, line.rpartition(" ")[0]) for line, path in places}
        for path, qualified in calls:
            symbol = qualified.partition(".")[0]
            own = path.endswith(".py") and not path.startswith(MACHINERY)
            if own and not symbol.startswith("<") and (path, symbol) not in OF_MACHINERY:
                count += 1
                if (path, symbol) not in held[variant.name]:
                    beyond.add((variant.name, path, symbol))
    assert not beyond
    assert count > 1000
    assert len(held) >= (20 if rounds == 1 else 5)
