"""Dumps of other trainers: handmade files with exactly the columns that each writes."""

import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.commands import dumps
from pipeline.commands.app import app
from pipeline.commands.audit import audit_params
from pipeline.commands.dumps.student import Student
from pipeline.commands.dumps.told import Told
from pipeline.core.errors import UserError
from tests import naive
from tests.engines.test_prerendered import GEMMA, LLAMA_3, STUDENTS
from tests.training.test_import import WORK, ids_of, read

pytestmark = pytest.mark.usefixtures("warm")

ASKED = [{"role": "user", "content": "8+5?"}]
CHATTY = (
    "{% for m in messages %}<pad>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}={% endif %}"
)


@pytest.fixture(scope="module")
def chatty():
    found = naive.tiny(1)
    found.tokenizer.chat_template = CHATTY
    return found


@pytest.fixture(scope="module")
def folder(chatty, tmp_path_factory):
    found = tmp_path_factory.mktemp("student")
    chatty.tokenizer.save_pretrained(found)
    return found


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    found = tmp_path_factory.mktemp("chatml")
    STUDENTS["chatml"].save_pretrained(found)
    return found


def lines(path, *found):
    path.write_text("".join(json.dumps(x) + "\n" for x in found))
    return path


def table(path, *found):
    pq.write_table(pa.Table.from_pylist(list(found)), path)
    return path


def converted(path, student, *told, **more):
    target = dumps.converted(path, str(student), Told(*told, **more), path.parent / "out")
    return target, [json.loads(x) for x in target.read_text().splitlines()]


def trl(**changed):
    """A row of TRL 1.16's completions_00005.parquet."""
    answer = [{"role": "assistant", "content": WORK}]
    return {
        "step": 5, "prompt": ASKED, "completion": answer, "accuracy": 1.0, "advantage": 0.5
    } | changed  # fmt: skip


def verl(**changed):
    """A line of verl 0.9.1's 5.jsonl, with what a reward function returned behind."""
    return {
        "input": "user\nName a metal.\nassistant\n<think>\n\n</think>\n\n", "output": "Tin.",
        "gts": "tin", "score": 1.0, "step": 5, "acc": True, "request_id": "a-0",
    } | changed  # fmt: skip


def test_trls_messages_become_rollouts_of_the_student(chatty, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = table(tmp_path / "completions_00005.parquet", trl(), trl(accuracy=float("nan")))
    target, _ = converted(path, folder, "trl", "stop")
    found, known = read(target, chatty)
    assert [x["token_ids"] for x in found] == [ids_of(chatty, WORK)] * 2
    assert [x["reward"] for x in found] == [1.0, None]
    assert [x["finish_reason"] for x in found] == ["stop", "stop"]
    assert found[0]["prompt_token_ids"] == chatty.prompt_ids(ASKED)
    assert known[found[0]["prompt_id"]].messages == ASKED
    for said in ("trl, 2 responses", "no token_ids and no logprobs", "as --finish-reason says (2)"):
        assert said in caplog.text


def test_trls_prompt_of_text_is_read_as_it_is_and_a_rendered_one_is_taken_apart(
    chatty, folder, tmp_path
):
    rows = [trl(prompt=x, completion=WORK) for x in ("8+5?", "<pad>8+5?<eos>=")]
    target, _ = converted(
        table(tmp_path / "completions_00005.parquet", *rows), folder, "trl", "stop"
    )
    (raw, rendered), known = read(target, chatty)
    assert raw["prompt_token_ids"] == ids_of(chatty, "8+5?", ended=False)
    assert rendered["prompt_token_ids"] == chatty.prompt_ids(ASKED)
    assert [known[x["prompt_id"]].messages for x in (raw, rendered)] == [ASKED, ASKED]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"completion": [{"role": "assistant", "content": "a", "tool_calls": ["x"]}]}, "tools and"),
        (
            {
                "completion": [
                    {"role": "assistant", "content": "a"},
                    {"role": "tool", "content": "b"},
                ]
            },
            "completion: found 'assistant, tool', wanted one message of an assistant",
        ),
        ({"prompt": [{"role": "user", "content": ["x"]}]}, "images, tools and parsed reasoning"),
        ({"completion": None}, "wanted 'completion'"),
    ],
)
def test_trls_rows_that_are_no_single_text_are_named(folder, tmp_path, changed, said):
    with pytest.raises(UserError, match=f"line 1: .*{said}"):
        converted(lines(tmp_path / "x.jsonl", trl(**changed)), folder, "trl", "stop")


def test_a_reward_that_is_infinite_is_named(folder, tmp_path):
    path = table(tmp_path / "x.parquet", trl(accuracy=float("inf")))
    with pytest.raises(UserError, match="row 1: accuracy: found inf, wanted a finite number"):
        converted(path, folder, "trl", "stop")


def test_of_several_reward_columns_one_is_named(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = table(tmp_path / "x.parquet", trl(brevity=0.25))
    _, (row,) = converted(path, folder, "trl", "stop")
    assert row["reward"] is None
    assert (
        "2 columns may be the reward, ['accuracy', 'brevity']: name one with --reward"
        in caplog.text
    )
    _, (row,) = converted(path, folder, "trl", "stop", reward="brevity")
    assert row["reward"] == 0.25
    with pytest.raises(UserError, match="row 1: --reward: found 'speed', wanted one of"):
        converted(path, folder, "trl", "stop", reward="speed")


def test_a_folder_of_several_steps_is_refused(folder, tmp_path):
    for step in (1, 2):
        table(tmp_path / f"completions_0000{step}.parquet", trl(step=step))
    with pytest.raises(UserError, match=r"step: found 2 after \[1\], wanted one step"):
        converted(tmp_path, folder, "trl", "stop")


def test_verls_prompt_is_taken_apart_only_where_it_renders_to_the_same_text(chatml, tmp_path):
    system = "system\nBe brief.\nuser\nName a metal.\nassistant\n<think>\n\n</think>\n\n"
    path = lines(tmp_path / "5.jsonl", verl(), verl(input=system))
    _, (alone, both) = converted(path, chatml, "verl", "stop")
    metal = {"role": "user", "content": "Name a metal."}
    assert alone["messages"] == [metal]
    assert both["messages"] == [{"role": "system", "content": "Be brief."}, metal]
    assert (alone["text"], alone["reward"], alone["answer"]) == ("Tin.", 1.0, "tin")
    for row in (alone, both):
        text = STUDENTS["chatml"].decode(row["prompt_token_ids"])
        wanted = STUDENTS["chatml"].apply_chat_template(
            row["messages"], tokenize=False, add_generation_prompt=True
        )
        assert text == wanted


@pytest.mark.parametrize(
    "text",
    [
        "Name a metal.",
        "user\nName a metal.\nassistant\n",  # by another template: no think block
        "user\nHi\nassistant\n<think>\n\n</think>\n\nHello\nuser\nMore\nassistant\n<think>\n\n"
        "</think>\n\n",
        "system\nA\nuser\nB\nuser\nC\nassistant\n<think>\n\n</think>\n\n",
        "ame a metal.\nassistant\n<think>\n\n</think>\n\n",  # cut from the left
    ],
)
def test_verls_prompt_that_may_be_another_conversation_is_refused(chatml, tmp_path, text):
    path = lines(tmp_path / "5.jsonl", verl(), verl(input=text))
    with pytest.raises(UserError, match=r"line 2: input: found a rendered prompt, .* wanted one"):
        converted(path, chatml, "verl", "stop")


@pytest.mark.parametrize("format_", ["verl", "trl"])
def test_a_dump_without_ends_wants_to_be_told_before_anything_is_computed(
    folder, chatml, tmp_path, format_
):
    path = lines(tmp_path / "5.jsonl", verl() if format_ == "verl" else trl())
    said = (
        f"line 1: {format_} does not write whether .* --response-limit N, .* --finish-reason stop"
    )
    with pytest.raises(UserError, match=said):
        converted(path, chatml if format_ == "verl" else folder, format_)
    assert not list((tmp_path / "out").iterdir())


def test_a_response_of_the_limit_was_cut(folder, tmp_path):
    rows = [trl(completion=x) for x in (WORK, WORK[:-1])]
    path = lines(tmp_path / "x.jsonl", *rows)
    _, found = converted(path, folder, "trl", response_limit=len(WORK))
    assert [x["finish_reason"] for x in found] == ["length", "stop"]


def test_openrlhfs_output_says_by_its_end_whether_it_ended(chatml, tmp_path):
    asked = STUDENTS["chatml"].apply_chat_template(
        ASKED, tokenize=False, add_generation_prompt=True
    )
    rows = [
        {"input": asked, "output": "13<|im_end|>"},
        {"input": "Add: 8+5 is", "output": " 13<|im_end|>", "reward": 2},
    ]
    _, found = converted(lines(tmp_path / "x.jsonl", *rows), chatml, "openrlhf")
    assert [x["messages"][-1]["content"] for x in found] == ["8+5?", "Add: 8+5 is"]
    assert STUDENTS["chatml"].decode(found[0]["prompt_token_ids"]) == asked
    assert STUDENTS["chatml"].decode(found[1]["prompt_token_ids"]) == "Add: 8+5 is"
    assert [(x["text"], x["finish_reason"], x["reward"]) for x in found] == [
        ("13", "stop", None), (" 13", "stop", 2.0),
    ]  # fmt: skip
    cut = lines(tmp_path / "y.jsonl", {"input": asked, "output": "13"})
    with pytest.raises(UserError, match="openrlhf does not write whether"):
        converted(cut, chatml, "openrlhf")


def trace(chatty, version=1, **changed):
    """A trace of verifiers as prime-rl writes it; with version 0 as of v0.7.0."""
    prompt = chatty.prompt_ids(ASKED)
    ids = ids_of(chatty, WORK)
    nodes = [
        {"message": ASKED[0], "sampled": False, "token_ids": prompt[:-1],
         "mask": [False] * (len(prompt) - 1), "logprobs": []},
        {"parent": 0, "message": {"role": "assistant", "content": WORK}, "sampled": True,
         "token_ids": [prompt[-1], *ids], "mask": [False] + [True] * len(ids),
         "logprobs": [-1.0] * len(ids)},
    ]  # fmt: skip
    rewards = {"right": {"score": 1.0, "weight": 0.5}, "form": {"score": 1.0, "weight": 0.25}}
    return {
        "version": 1, "id": "t1", "task": {"type": "Add", "data": {}}, "nodes": nodes,
        "calls": [{"node": 1, "finish_reason": "stop"}],
        "rewards": rewards if version else {"right": 0.5, "form": 0.25},
        "agent": {"name": "agent", "trainable": True}, "is_completed": True, "ok": True,
    } | changed  # fmt: skip


def episode(*traces):
    return {"id": "e1", "env": {"id": "add"}, "task": {"type": "Add"}, "ok": True, "errors": [],
            "traces": list(traces)}  # fmt: skip


@pytest.mark.parametrize("version", [0, 1])
def test_prime_rls_tokens_and_logprobs_are_taken_as_they_were_sampled(
    chatty, folder, tmp_path, version, caplog
):
    caplog.set_level(logging.INFO)
    own = trace(chatty, version)
    judge = trace(chatty, id="t2", agent={"trainable": False})
    row = episode(own, judge) if version else own
    if version:
        row["run"] = {"type": "train", "work": {"step": 7, "policy": {"start": 6, "end": 7}}}
    counts = {}
    target, _ = converted(lines(tmp_path / "traces.jsonl", row), folder, "prime-rl")
    (found,), known = read(target, chatty, counts)
    assert (found["rollout_id"], found["reward"]) == ("t1", 0.75)
    assert found["token_ids"] == ids_of(chatty, WORK)
    assert found["prompt_token_ids"] == chatty.prompt_ids(ASKED)
    assert known[found["prompt_id"]].messages == ASKED
    assert counts["logprob_gap_mean"] > 0
    assert ("the policy's versions 6 to 7 (1)" in caplog.text) == bool(version)
    assert ("an agent that is not trained (1)" in caplog.text) == bool(version)


def test_prime_rls_turns_are_a_response_each_and_text_serves_without_tokens(
    chatty, folder, tmp_path
):
    nodes = [
        {"message": ASKED[0]},
        {"parent": 0, "message": {"role": "assistant", "content": "#13"}, "sampled": True},
        {"parent": 1, "message": {"role": "user", "content": "1+1?"}},
        {"parent": 2, "message": {"role": "assistant", "content": "#2"}, "sampled": True},
    ]
    calls = [{"node": 1, "finish_reason": "stop"}, {"node": 3, "finish_reason": "length"}]
    row = episode(trace(chatty, nodes=nodes, calls=calls))
    target, found = converted(lines(tmp_path / "traces.jsonl", row), folder, "prime-rl")
    assert [x["rollout_id"] for x in found] == ["t1/1", "t1/3"]
    assert [x["finish_reason"] for x in found] == ["stop", "length"]
    assert [len(x["messages"]) for x in found] == [1, 3]
    assert len(read(target, chatty)[0]) == 2


def test_prime_rls_answers_to_tools_and_broken_masks_are_named(chatty, folder, tmp_path):
    tool = [{"message": {"role": "tool", "content": "x"}}]
    answer = {"parent": 0, "message": {"role": "assistant", "content": "#2"}, "sampled": True}
    holes = trace(chatty)
    holes["nodes"][1]["mask"][3] = False
    for row, said in (
        (trace(chatty, nodes=[*tool, answer]), "found 'tool', wanted a response to a user's"),
        (holes, "wanted a mask as long as token_ids, true for one run"),
        ({"id": "x", "prompt": "8+5?"}, "wanted nodes of a trace, or traces"),
        (episode(), "found no response of the student"),
        (trace(chatty, rewards=[1.0]), "wanted rewards by name"),
        (trace(chatty, rewards={"right": {"score": None}}), "wanted rewards that are numbers"),
    ):
        with pytest.raises(UserError, match=said):
            converted(lines(tmp_path / "traces.jsonl", row), folder, "prime-rl")


@pytest.mark.parametrize(
    ("format_", "wanted"),
    [
        ("trl", "'completion'"),
        ("verl", "'output', 'gts', 'score', 'step'"),
        ("openrlhf", "'output'"),
    ],
)
def test_another_file_is_refused_with_the_fields_that_are_missing(
    folder, tmp_path, format_, wanted
):
    row = {"input": "x", "prompt": "x"}
    with pytest.raises(UserError, match=f"line 1: found the fields .*wanted .*{wanted}.*, too"):
        converted(lines(tmp_path / "x.jsonl", row), folder, format_)


def test_an_import_of_a_dump_without_its_name_says_how_to_name_it(folder, tmp_path):
    path = lines(tmp_path / "x.jsonl", verl())
    options = audit_params.Options(str(folder), "t", path, tmp_path / "o", imported=True)
    with pytest.raises(UserError, match=r"line 1: found the fields .*say with --format which"):
        audit_params.fitted(options)
    path = lines(tmp_path / "y.jsonl", trl())
    options = audit_params.Options(
        str(folder), "t", path, tmp_path / "o", imported=True, dump=Told("trl", "stop")
    )
    fitted = audit_params.fitted(options)
    assert (fitted.count, fitted.dump, fitted.prompts.name) == (1, None, "trl-y.jsonl")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reward", "x"], "--reward: found without --format"),
        (["--format", "trl", "--finish-reason", "stop", "--response-limit", "5"], "found both"),
    ],
)
def test_options_of_a_dump_that_contradict_each_other_are_refused(tmp_path, options, said):
    path = lines(tmp_path / "x.jsonl", trl())
    asked = ["import", str(path), "--student", "s", "--out", str(tmp_path / "out"), *options]
    found = CliRunner().invoke(app, asked)
    assert isinstance(found.exception, UserError)
    assert said in str(found.exception)


@pytest.mark.parametrize(("name", "template"), [("gemma", GEMMA), ("llama", LLAMA_3)])
@pytest.mark.parametrize("special", [True, False])
def test_what_public_templates_render_comes_back_with_its_ids(tmp_path, name, template, special):
    own = STUDENTS[name]
    own.save_pretrained(tmp_path)
    student = Student(str(tmp_path))
    system = [{"role": "system", "content": "Be brief."}]
    for messages in (ASKED, [*system, *ASKED]):
        text = own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = own.encode(text, add_special_tokens=False)
        shown = text if special else own.decode(ids, skip_special_tokens=True)
        found = student.asked(dumps.Row("here", {}), "input", shown, special)
        assert found == (messages, ids)
