"""Rows in the formats that sets really have; every row here was written for these tests."""

import json
import re
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from pipeline.config import teacher_lines
from pipeline.config.evaluation import Agreement, Judge
from pipeline.config.problems import ProblemSet
from pipeline.core.errors import UserError
from pipeline.data import content_hash, schemas
from pipeline.tasks import load, math, problem_files, prompts
from stages.prepare import PrepareParams, prepare
from tests.project import ROOT

GSM8K = {
    "question": "A box holds 1,200 pens. How many pens do 2 boxes hold?",
    "answer": "2 boxes hold 2*1200=<<2*1200=2400>>2400 pens.\n#### 2,400",
}
MATH_500 = {
    "problem": "What is half of one?",
    "solution": "It is $\\boxed{\\frac{1}{2}}$.",
    "answer": "\\frac{1}{2}",
    "subject": "Prealgebra",
    "level": 1,
    "unique_id": "test/prealgebra/1.json",
}
AIME = [  # hubs name their fields differently
    {"ID": "2024-I-0", "Problem": "Count to 7.", "Solution": "...", "Answer": 7},
    {"id": 60, "problem": "Count to 8.", "solution": "...", "answer": "8", "year": "2024"},
    {"problem": 3, "question": "Count to 9.", "answer": "9"},
    {"id": 1, "problem": "Count to 10.", "solution": "So \\boxed{10}."},
]
OLYMPIADBENCH = {
    "id": 1606,
    "question": "Solve $x^2=4$.",
    "final_answer": ["$2$", "$-2$"],
    "is_multiple_answer": True,
    "context": None,
    "answer_type": "Numerical",
}


def lines(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def mathematics(folder, sets, **counts):
    values = {"task": "math", "seed": 1, "folder": str(folder), "sets": sets, "instruction": "Go."}
    return math.Prepare.model_validate_json(json.dumps(values | counts))


def one(tmp_path, format_, *found, **fields):
    lines(tmp_path / "rows.jsonl", found)
    source = {"file": "rows.jsonl", "splits": ["train"], **fields}
    if format_:
        source["format"] = format_
    source = math.MathSet.model_validate_json(json.dumps(source))
    return [math.fields(source, row) for row in problem_files.read(source, str(tmp_path))]


def test_gsm8k_has_its_answer_after_four_hashes_without_commas(tmp_path):
    assert one(tmp_path, "gsm8k", GSM8K) == [(GSM8K["question"], "2400")]


def test_math_500_has_a_problem_and_an_answer(tmp_path):
    assert one(tmp_path, "math-500", MATH_500) == [("What is half of one?", "\\frac{1}{2}")]


def test_aime_is_read_as_each_hub_writes_it(tmp_path):
    found = one(tmp_path, "aime", *AIME)
    assert found == [(f"Count to {n}.", str(n)) for n in (7, 8, 9, 10)]


def test_olympiadbench_lists_its_answers(tmp_path):
    physics = OLYMPIADBENCH | {"context": "In vacuum.", "final_answer": ["$9.8$"]}
    assert one(tmp_path, "olympiadbench", OLYMPIADBENCH, physics) == [
        ("Solve $x^2=4$.", "2, -2"),
        ("In vacuum.\nSolve $x^2=4$.", "9.8"),
    ]


def test_own_fields_are_named_in_params(tmp_path):
    found = one(tmp_path, None, {"q": "1+1?", "gold": 2}, prompt="q", answer="gold")
    assert found == [("1+1?", "2")]


@pytest.mark.parametrize(
    ("format_", "row", "said"),
    [
        ("gsm8k", {"question": "?", "answer": "7"}, r"line 2: answer: found '7', wanted a solut"),
        ("gsm8k", {"prompt": "?"}, r"line 2: found the fields \['prompt'\], wanted 'answer'"),
        ("math-500", {"problem": " ", "answer": "7"}, r"line 2: problem: found ' ', wanted text"),
        ("olympiadbench", {"question": "?", "final_answer": []}, r"final_answer: found \[\], want"),
        ("aime", {"question": "?", "answer": None}, r"wanted 'answer' or 'Answer' or 'solution'"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, format_, row, said):
    good = {"gsm8k": GSM8K, "math-500": MATH_500, "aime": AIME[0], "olympiadbench": OLYMPIADBENCH}
    with pytest.raises(
        UserError, match=r"rows\.jsonl, " + (said if "line" in said else ".*" + said)
    ):
        one(tmp_path, format_, good[format_], row)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n{"a"', "line 2: not JSON"),
        ("[1]\n", "line 1: found list, wanted an object"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, said):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        list(problem_files.file(path))
    with pytest.raises(UserError, match="no such file"):
        list(problem_files.file(tmp_path / "gone.jsonl"))
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(UserError, match=r"found '\.csv', wanted \.jsonl"):
        list(problem_files.file(tmp_path / "x.csv"))
    (tmp_path / "x.parquet").write_text("a")
    with pytest.raises(UserError, match="not a Parquet file"):
        list(problem_files.file(tmp_path / "x.parquet"))


def test_json_lines_json_and_parquet_hold_the_same_rows(tmp_path):
    lines(tmp_path / "a.jsonl", [MATH_500, MATH_500])
    lines(tmp_path / "a.json", [MATH_500, MATH_500])
    (tmp_path / "b.json").write_text(json.dumps([MATH_500, MATH_500]))
    pq.write_table(pa.Table.from_pylist([MATH_500, MATH_500]), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "b.json", "a.parquet"):
        assert [row.values for row in problem_files.file(tmp_path / name)] == [MATH_500, MATH_500]


def test_a_hub_is_asked_at_a_pinned_revision(monkeypatch):
    asked = {}

    def load_dataset(name, config, *, split, revision):
        asked.update(name=name, config=config, split=split, revision=revision)
        if name == "gone/gone":
            raise FileNotFoundError("no such dataset")
        return [MATH_500]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    source = {"hub": "some/set", "hub_split": "test", "revision": "a" * 40, "splits": ("test",)}
    (row,) = problem_files.read(ProblemSet(**source), None)
    assert row.values == MATH_500
    expected = {"name": "some/set", "config": None, "split": "test", "revision": "a" * 40}
    assert asked == expected
    with pytest.raises(UserError, match=r"hub gone/gone at a{40}: no such dataset"):
        list(problem_files.read(ProblemSet(**source | {"hub": "gone/gone"}), None))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs the package datasets"):
        list(problem_files.read(ProblemSet(**source), None))
    with pytest.raises(ValueError, match="revision"):
        ProblemSet(hub="some/set", splits=("test",))


def drawn(p):
    found = {}
    for row in prepare(PrepareParams(prepare=p).prepare):
        assert list(row) == schemas.PROMPTS.names
        found.setdefault(row["split"], []).append(row["prompt"])
    return found


def numbered(tmp_path, name, first, last):
    found = [{"problem": f"p{i}", "answer": str(i)} for i in range(first, last)]
    lines(tmp_path / f"{name}.jsonl", found)
    return found


def test_splits_are_shuffled_disjoint_and_kept_when_the_pool_grows(tmp_path):
    numbered(tmp_path, "mine", 0, 30)
    sets = {
        "mine": {
            "file": "mine.jsonl",
            "format": "math-500",
            "splits": ["test", "dev", "train"],
        }
    }
    small = drawn(mathematics(tmp_path, sets, train=5, dev=4, test=6))
    large = drawn(mathematics(tmp_path, sets, train=20, dev=4, test=6))
    assert small["test"] == large["test"]
    assert small["dev"] == large["dev"]
    assert small["train"] == large["train"][:5]
    everything = [x for found in large.values() for x in found]
    assert sorted(everything) == sorted(f"p{i}" for i in range(30))
    assert everything != [f"p{i}" for i in range(30)]


def test_a_set_serves_only_its_splits_and_never_trains_on_what_tests(tmp_path):
    numbered(tmp_path, "own", 0, 10)
    numbered(tmp_path, "held-out", 8, 14)  # two problems are in both
    sets = {
        "own": {"file": "own.jsonl", "format": "math-500", "splits": ["train", "dev"]},
        "held-out": {"file": "held-out.jsonl", "format": "math-500", "splits": ["test"]},
    }
    found = drawn(mathematics(tmp_path, sets, train=6, dev=2, test=6))
    assert set(found["test"]) == {f"p{i}" for i in range(8, 14)}
    assert set(found["train"] + found["dev"]) == {f"p{i}" for i in range(8)}


def test_too_few_rows_are_refused_with_the_number_that_is_left(tmp_path):
    numbered(tmp_path, "own", 0, 10)
    numbered(tmp_path, "again", 0, 10)  # repeats do not count
    sets = {
        name: {"file": f"{name}.jsonl", "format": "math-500", "splits": ["test", "dev", "train"]}
        for name in ("own", "again")
    }
    with pytest.raises(UserError, match=r"prepare\.train: found 8, wanted at most 7"):
        drawn(mathematics(tmp_path, sets, train=8, dev=1, test=2))


def test_a_cell_holds_the_hash_of_the_file_and_prepare_refuses_another_content(tmp_path):
    numbered(tmp_path, "own", 0, 10)
    source = {"file": "own.jsonl", "format": "math-500", "splits": ["test", "dev", "train"]}
    p = mathematics(tmp_path, {"own": source}, train=1, dev=1, test=1)
    cell = p.resolved()
    assert len(cell["sets"]["own"]["sha256"]) == 64
    numbered(tmp_path, "own", 0, 11)
    content_hash.sha256.cache_clear()
    assert p.resolved() != cell
    with pytest.raises(UserError, match=r"own\.jsonl: its content has the hash .* run `omniopd pl"):
        drawn(math.Prepare.model_validate_json(json.dumps(cell)))


def spoken(tmp_path, *found, **counts):
    path = lines(tmp_path / "prompts.jsonl", found)
    values = {"task": "prompts", "seed": 0, "file": str(path)} | (counts or {"train": len(found)})
    return load(prompts.Prepare.model_validate_json(json.dumps(values)))


def test_a_prompt_is_a_text_or_messages_and_its_answer_is_optional(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    task = spoken(tmp_path, {"prompt": "1+1?", "answer": 2}, {"messages": messages})
    found = {p.prompt: p for p in task.problems(0)}
    assert found["1+1?"].messages == [{"role": "user", "content": "1+1?"}]
    assert found["1+1?"].answer == "2"
    assert found["Be brief.\n\nWhy?"].messages == messages
    assert found["Be brief.\n\nWhy?"].answer == ""


@pytest.mark.parametrize(
    ("answer", "kept"), [(0, "0"), (0.0, "0.0"), (False, "False"), ("", ""), (None, ""), ("0", "0")]
)
def test_an_answer_that_python_takes_for_nothing_is_kept(tmp_path, answer, kept):
    (found,) = spoken(tmp_path, {"prompt": "1-1?", "answer": answer}).problems(0)
    assert found.answer == kept


@pytest.mark.parametrize("format_", ["math-500", "aime", "gsm8k"])
def test_a_final_answer_of_zero_is_an_answer(tmp_path, format_):
    answer = "so\n#### 0" if format_ == "gsm8k" else 0
    row = {"problem": "1-1?", "question": "1-1?", "answer": answer, "solution": "\\boxed{1}"}
    assert one(tmp_path, format_, row) == [("1-1?", "0")]


def test_a_context_of_zero_is_a_context_and_an_empty_one_is_none(tmp_path):
    found = [OLYMPIADBENCH | {"context": x, "question": "?"} for x in (0, "", " ", None)]
    read = [problem for problem, _ in one(tmp_path, "olympiadbench", *found)]
    assert read == ["0\n?", "?", "?", "?"]


def test_a_number_that_is_none_is_no_answer(tmp_path):
    for value in (float("nan"), float("inf")):
        table = pa.table({"problem": ["1?"], "answer": [value]})
        pq.write_table(table, tmp_path / f"{value}.parquet")
        source = {"file": f"{value}.parquet", "format": "math-500", "splits": ["train"]}
        source = math.MathSet.model_validate_json(json.dumps(source))
        (row,) = problem_files.read(source, str(tmp_path))
        with pytest.raises(UserError, match=rf"row 1: answer: found {value}, wanted text"):
            math.fields(source, row)


SYSTEM = {"role": "system", "content": "Answer with a number only."}
LEGS = {"role": "user", "content": "How many legs has a cat?"}
HI = {"role": "assistant", "content": "hi"}


def test_conversations_and_texts_stand_in_one_file(tmp_path):
    talk = [{"role": "user", "content": "Say hi."}, HI, {"role": "user", "content": "Count."}]
    named = {"prompt": "Name a colour."}
    task = spoken(
        tmp_path, {"messages": [SYSTEM, LEGS]}, {"messages": talk}, {"prompt": talk[:1]}, named
    )
    found = [p.messages for p in task.problems(0)]
    colour = [{"role": "user", "content": "Name a colour."}]
    for wanted in ([SYSTEM, LEGS], talk, talk[:1], colour):
        assert wanted in found


def test_messages_beside_a_prompt_are_what_is_asked_if_they_ask(tmp_path):
    asks, told = [SYSTEM, LEGS], [LEGS, HI]  # the second is how sets of worked answers look
    task = spoken(
        tmp_path, {"prompt": "rendered", "messages": asks}, {"prompt": "x", "messages": told}
    )
    found = {p.prompt: p.messages for p in task.problems(0)}
    assert found["Answer with a number only.\n\nHow many legs has a cat?"] == asks
    assert found["x"] == [{"role": "user", "content": "x"}]


def test_parquet_and_arrow_keep_conversations_whose_fields_differ(tmp_path):
    talk = [SYSTEM | {"name": None}, LEGS | {"name": "a"}]
    pq.write_table(pa.Table.from_pylist([{"messages": talk}]), tmp_path / "x.parquet")
    p = prompts.Prepare(task="prompts", file=str(tmp_path / "x.parquet"), seed=0, train=1)
    (found,) = load(p).problems(0)
    assert found.messages == [SYSTEM, LEGS]


@pytest.mark.parametrize(
    "messages",
    [[], "Why?", [{"role": "user"}], [{"role": "assistant", "content": "x"}], [{"role": "bot"}]],
)
def test_messages_end_with_a_user(tmp_path, messages):
    task = spoken(tmp_path, {"messages": messages})
    with pytest.raises(UserError, match=r"line 1: messages: found .*, wanted a list of"):
        list(task.problems(0))


def test_prompts_have_no_checker(tmp_path):
    with pytest.raises(UserError, match="no checker"):
        spoken(tmp_path, {"prompt": "x"}).check("prompts", "y", "")


def test_the_examples_of_the_docs_are_valid():
    text = (ROOT / "docs/tasks.md").read_text().replace("COMMIT", "a" * 40)
    blocks = [x for x in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if ", ..." not in x]
    read = [YAML(typ="safe", pure=True).load(block) for block in blocks]
    found = [one["prepare"] for one in read if "prepare" in one]
    asked = [how for one in read for how in one.get("evaluate", {}).items()]
    (_, agreement), (_, judge) = asked
    Agreement.model_validate_json(json.dumps(agreement))
    Judge.model_validate_json(json.dumps(judge | {"teacher": teacher_lines.name(judge["teacher"])}))
    assert [name for name, _ in asked] == ["agreement", "judge"]
    loaded = [PrepareParams.model_validate_json(json.dumps({"prepare": x})) for x in found]
    assert [p.prepare.task for p in loaded] == ["math", "code", "reasoning-gym"]
