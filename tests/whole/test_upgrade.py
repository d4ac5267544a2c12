"""A project, its cache and its store that an older version made are opened by this one.

tests/upgraded/COMMIT.tar.xz was made at that commit: the miniature with the arms omniopd,
imitate-forks and shuffled-scores and a teacher behind HTTP (tests/servers.py, Pure), run whole;
params.yaml, plan.yaml, dvc.lock, the judgment store and the objects of the cache, without the page.
"""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from pipeline.data import schemas, tables
from pipeline.judgments import archive
from pipeline.judgments.store import Store
from pipeline.plan.expand import upstream
from tests.project import ROOT, Project
from tests.servers import Pure

MADE = sorted((ROOT / "tests" / "upgraded").glob("*.tar.xz"))


@pytest.fixture(scope="module", params=MADE, ids=lambda path: path.name.partition(".")[0])
def opened(request, tmp_path_factory):
    """The old project with this version's code, its artifacts checked out; nothing ran."""
    folder = tmp_path_factory.mktemp("upgraded") / "project"
    found = Project(folder)
    shutil.unpack_archive(request.param, folder)
    found.run("omniopd", "plan")
    found.run("dvc", "checkout", check=False)  # the page is not there, nor what is new
    found.said = found.run("omniopd", "plan").stdout
    return found


def test_the_plan_says_that_cells_depended_on_code_in_another_way(opened):
    cells = set(opened.locked()) & set(upstream(opened.plan()))
    assert f"{len(cells)} cells ran when each file of code was a dependency" in opened.said
    assert "Run `omniopd verify-code` first" in opened.said
    assert "78 answers of hosted teachers, 78 of them in the store" in opened.said
    assert "at most $0.00" in opened.said


def test_every_key_of_an_old_store_is_what_this_version_computes(opened):
    with Store(f"sqlite:///{opened.folder / 'judgments.sqlite'}") as store:
        rows = [found for chunk in store.rows.stream() for found in chunk]
        assert archive.verify(store) == len(rows) == 78
    for judgment in rows:
        assert judgment.expected_key() == judgment.key


def test_the_estimate_says_that_nothing_is_bought_again(opened):
    found = json.loads(opened.run("omniopd", "estimate", "--json").stdout)
    assert found["total"]["answers"] == found["total"]["held"] == 78
    assert found["total"]["usd"] == 0


def test_teach_asks_nothing_and_writes_the_answers_that_were_bought(opened):
    (out,) = (opened.folder / "data" / "teach").iterdir()
    before = pq.read_table(out / "answers.parquet")  # it may lack columns that came since
    with Pure().running() as server:
        opened.edit(teachers__api__base_url=f"{server.url}/v1")
        opened.run("omniopd", "stage", "teach", "--cell", out.name, "--out", "again")
        assert server.answers == []
    after = tables.read(opened.folder / "again" / "answers.parquet", schemas.ANSWERS)
    assert after.select(before.column_names).equals(before)
