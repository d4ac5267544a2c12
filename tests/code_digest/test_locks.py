"""The locks of this project's own code, by what is done to its files."""

import ast
import re
import sqlite3
from contextlib import closing

import pytest
from ruamel.yaml import YAML

from pipeline.code_digest import declared, files, libraries, locks, variants
from pipeline.code_digest.reading import digest
from pipeline.code_digest.reading.source import Tree
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from tests.project import MINIATURE, ROOT

FILES = files.read(ROOT)
STEPS = {"steps_per_cell": 2, "rounds": 2, "arms": ["omniopd", "gkd"]}


def planned(**changes):
    """The variants of every arm of the miniature, with `changes` of block experiment."""
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["experiment"] |= {"arms": list(values["arms"])} | changes
    return variants.of_plan(expand.expand(experiment.of(values, "")))


VARIANTS = planned() | planned(**STEPS)


def texts(changed=None):
    found = digest.codes(Tree(FILES | (changed or {})), VARIANTS.values())
    return {name: code.text() for name, code in found.items()}


@pytest.fixture(scope="module")
def now():
    return texts()


def differing(now, changed):
    after = texts(changed)
    return {name for name in now if now[name] != after[name]}


def edited(path, old, new):
    text = FILES[path].decode()
    assert text.count(old) == 1
    return {path: text.replace(old, new).encode()}


def sources():
    return {path: text.decode() for path, text in FILES.items() if path.endswith(".py")}


def test_other_comments_format_and_helpers_that_nobody_calls_change_no_lock(now):
    """Every file is written anew from its syntax tree, which holds no comment and no format."""
    helper = "\n\ndef _a_new_helper(x: int) -> int:\n    return x + 1\n"
    written = {path: ast.unparse(ast.parse(text)) + helper for path, text in sources().items()}
    # named by a string, so that any name of it counts
    del written["pipeline/report/page/__init__.py"]
    assert written["stages/train.py"] != sources()["stages/train.py"]
    assert differing(now, {path: text.encode() for path, text in written.items()}) == set()


def test_other_docstrings_and_annotations_of_signatures_change_no_lock(now):
    def another(path, text):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
                node
            ):
                node.body[0] = ast.Expr(ast.Constant("Another docstring."))
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                node.returns = ast.Tuple([node.returns or ast.Constant(None)], ast.Load())
        return ast.unparse(tree).encode()

    changed = {path: another(path, text) for path, text in sources().items()}
    assert differing(now, changed) == set()


def test_renamed_modules_change_no_lock(now, monkeypatch):
    """Three modules under other names, and all imports rewritten."""
    moved = {
        "pipeline.core.seeds": "pipeline.core.numbers",
        "pipeline.engines.checkpoints": "pipeline.folders",
        "pipeline.method.objectives.weighted": "pipeline.method.objectives.by_weight",
    }

    def rewritten(text):
        for old, new in moved.items():
            package, _, name = old.rpartition(".")
            into, _, as_ = new.rpartition(".")
            text = re.sub(rf"\b{re.escape(old)}\b", new, text)
            # `from pipeline import a, old, b`: the name goes to a line of its own
            text = re.sub(
                rf"^( *)from {package} import (\([^)]*\)|.*)$",
                lambda m, n=name, i=into, a=as_: _apart(m, n, i, a),
                text,
                flags=re.M,
            )
        return text

    def _apart(match, name, into, as_):
        names = [x.strip() for x in match[2].strip("()").replace("\n", " ").split(",") if x.strip()]
        if name not in names:
            return match[0]
        rest = [x for x in names if x != name]
        kept = f"{match[0][: match[0].index('import')]}import {', '.join(rest)}\n" if rest else ""
        return f"{kept}{match[1]}from {into} import {as_} as {name}"

    changed = {path: rewritten(text).encode() for path, text in sources().items()}
    for old, new in moved.items():
        changed[new.replace(".", "/") + ".py"] = changed.pop(old.replace(".", "/") + ".py")
    changed["pipeline/core/__init__.py"] = b""
    monkeypatch.setattr(declared, "SHARED", {"pipeline.method.objectives.by_weight"})
    gone = {old.replace(".", "/") + ".py" for old in moved}
    left = {path: text for path, text in FILES.items() if path not in gone}
    found = digest.codes(Tree(left | changed), VARIANTS.values())
    assert changed["stages/train.py"] != FILES["stages/train.py"]
    assert {name for name in now if now[name] != found[name].text()} == set()


def reaching(now, line):
    return {name for name, text in now.items() if re.search(rf"^{line} ", text, re.M)}


def test_a_sign_in_an_objective_changes_exactly_the_locks_that_reach_it(now):
    changed = edited(
        "pipeline/method/objectives/gkd.py", "math.log(1 - beta)", "math.log(1 + beta)"
    )
    wanted = {name for name in now if "gkd" in name}
    assert {"train-gkd", "steps-rollout-arithmetic-train-gkd"} == wanted
    assert differing(now, changed) == wanted


def test_what_many_reach_changes_all_their_locks(now):
    changed = edited("pipeline/engines/scoring_pass.py", "def exact(", "def exact(unused=1, *")
    wanted = reaching(now, "exact")
    assert 0 < len(wanted) < len(now)
    assert differing(now, changed) == wanted


def test_a_template_and_the_guard_of_the_sandbox_are_part_of_those_that_read_them(now):
    code = variants.of("evaluate-sandbox", {"params": {"prepare": {"task": "code"}}})
    assert not [name for name in now if name != "report" and reaching({name: now[name]}, "file .*")]
    for variant, path, more in (
        (VARIANTS["report"], "pipeline/report/page/page.css", b"/* */"),
        (code, "pipeline/sandbox/inside.py", b"\nX = 1\n"),
    ):
        before, after = (
            digest.codes(Tree(FILES | changed), [variant])[variant.name].text()
            for changed in ({}, {path: FILES[path] + more})
        )
        assert before != after


def test_another_minor_version_of_a_library_changes_the_locks_that_load_it(now, monkeypatch):
    plain = libraries.version
    monkeypatch.setattr(libraries, "version", lambda x: "5.99" if x == "transformers" else plain(x))
    loading = reaching(now, "library transformers")
    assert {"train-sft", "rollout-arithmetic"} < loading
    assert not {"score-exact", "prior", "report", "prepare-arithmetic"} & loading
    assert differing(now, {}) == loading


def test_a_name_of_a_variant_says_all_that_it_chooses():
    parts = {}
    for path in [ROOT / "params.yaml", *sorted(ROOT.glob("pipeline/commands/profiles/*.yaml"))]:
        for name, variant in variants.of_plan(expand.expand(experiment.load(path))).items():
            assert parts.setdefault(name, variant.parts) == variant.parts
    for name, variant in VARIANTS.items():
        assert parts.setdefault(name, variant.parts) == variant.parts
    assert len({str(x) for x in parts.values()}) == len(parts)


def test_what_is_declared_is_there():
    tree = Tree(FILES)
    assert all(map(tree.has, [*declared.OPTIONS, *declared.FOLDERS, *declared.SHARED]))
    for where, started in declared.REACHES.items():
        module, _, symbol = where.partition(":")
        assert symbol in tree.module(module).symbols
        assert all(map(tree.has, started))


def test_the_locks_that_are_committed_are_those_of_the_code():
    found = variants.of_plan(expand.expand(experiment.load(ROOT / "params.yaml")))
    wanted = locks.texts(found.values())
    written = {path.stem: path.read_text() for path in (ROOT / locks.FOLDER).glob("*.lock")}
    assert {k: _code(v) for k, v in written.items()} == {k: _code(v) for k, v in wanted.items()}


def _code(text):
    """Without versions of libraries, which are those of who committed it."""
    return [line for line in text.splitlines() if not line.startswith("library ")]


def test_a_lock_of_other_code_is_refused_with_what_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = VARIANTS["train-gkd"]
    with pytest.raises(UserError, match=r"train-gkd.lock does not exist.*Run `omniopd plan`"):
        locks.check([train])
    assert locks.write({"train-gkd": train, "prior": VARIANTS["prior"]}) == {}
    locks.check([train])
    text = locks.read("train-gkd")
    locks.path("train-gkd").write_text(re.sub(r"^terms .*$", "terms 0", text, flags=re.M))
    with pytest.raises(UserError, match="is of other code: terms changed since"):
        locks.check([train])
    assert set(locks.write({"train-gkd": train})) == {"train-gkd", "prior"}
    locks.check([train])
    assert locks.read("prior") is None


def test_digests_are_made_without_a_place_to_remember_them(now, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(locks.platformdirs, "user_cache_path", lambda _: tmp_path / "file")
    assert locks.texts([VARIANTS["prior"]])["prior"] == locks.HEADER + now["prior"]


@pytest.mark.parametrize("damaged", ["database", "values"])
def test_digests_are_made_anew_where_those_remembered_are_damaged(
    now, tmp_path, monkeypatch, damaged
):
    monkeypatch.setattr(locks.platformdirs, "user_cache_path", lambda _: tmp_path)
    wanted = [VARIANTS["prior"], VARIANTS["train-gkd"]]
    expected = locks.texts(wanted)
    (database,) = tmp_path.rglob("cache.db")
    with closing(sqlite3.connect(database, isolation_level=None)) as known:
        if damaged == "values":
            known.execute("update Cache set value = x'ff' where value is not null")
            for value in tmp_path.rglob("*.val"):
                value.write_bytes(b"\xff")
        known.execute("pragma wal_checkpoint(truncate)")
    if damaged == "database":
        database.write_bytes(b"\xa5" * database.stat().st_size)
    assert locks.texts(wanted) == expected
    assert expected["prior"] == locks.HEADER + now["prior"]
