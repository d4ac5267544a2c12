"""What student and teacher read, as it is shown before a teacher is asked."""

import json

import pyarrow as pa
import pytest

from pipeline import teachers
from pipeline.config.params import Runtime
from pipeline.config.teachers import LocalTeacher, OpenAICompatibleTeacher
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.teachers import protocol
from pipeline.teachers.purchase import prompt_view
from tests import templated
from tests.project import Project
from tests.servers import Pure
from tests.templated import CASES, CHATML, DATES, GEMMA, PIRATE

CHAT = [
    [{"role": "user", "content": "Name a colour."}],
    [{"role": "user", "content": "Name a metal."}],
    [
        {"role": "system", "content": "Answer with a number only."},
        {"role": "user", "content": "How many legs has a cat?"},
    ],
    [
        {"role": "user", "content": "Say hi."},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "Now count to three."},
    ],
]


@pytest.fixture
def table(tmp_path):
    """The prompts of CHAT as stage prepare writes them."""
    rows = [
        {
            "prompt_id": f"train-{i}",
            "split": "train",
            "task": "prompts",
            "messages": json.dumps(messages),
            "prompt": messages[-1]["content"],
            "answer": "",
        }
        for i, messages in enumerate(CHAT)
    ]
    tables.write(
        pa.Table.from_pylist(rows, schemas.PROMPTS), tmp_path / "it.parquet", schemas.PROMPTS
    )
    return tmp_path / "it.parquet"


def hosted(folder, mode):
    """A teacher behind a URL that nobody answers; `folder` holds its tokenizer, if it is known."""
    config = OpenAICompatibleTeacher(
        kind="openai_compatible", provider="vllm", model="m", base_url="http://127.0.0.1:1/v1",
        tokenizer=folder and str(folder),
    )  # fmt: skip
    asked = protocol.Asked(mode, 1.0, "live", Runtime())
    return teachers.load(config, "it", asked, None, None)


def sides(tmp_path, template, mode="completions", student=CHATML):
    folder = None
    if template is not None:
        folder = tmp_path / "teacher"
        templated.tokenizer(template).save_pretrained(folder)
    return prompt_view.Sides(templated.tokenizer(student), hosted(folder, mode), "it")


def views(found, table):
    return prompt_view.of_prompts(found, table, "chat.jsonl")


def test_a_local_teacher_is_read_by_its_own_template(tmp_path, table):
    folder = templated.checkpoint(tmp_path / "it/checkpoint", CASES["dropsys-teacher"])
    asked = protocol.Asked("completions", 1.0, "live", Runtime())
    local = teachers.load(
        LocalTeacher(kind="local", model="it"), "it", asked, folder, folder.parent
    )
    found = views(prompt_view.Sides(templated.tokenizer(CHATML), local, "it"), table)
    assert prompt_view.warnings(found) == [
        "The teacher's prompt lacks the system message 'Answer with a number only.': its template "
        "drops it.",
        "The teacher's prompt lacks the assistant message 'hi': its template drops it.",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sys-teacher", [repr(PIRATE)]),
        ("think-teacher", ["open think block (<think>)"]),
        ("nogen-teacher", ["without an assistant header"]),
        ("lastonly-teacher", ["'How many legs has a cat?'", "'hi'", "'Now count to three.'"]),
        ("student", []),
    ],
)
@pytest.mark.parametrize("mode", ["completions", "prefill"])
def test_a_hosted_one_by_that_of_its_tokenizer(tmp_path, table, name, said, mode):
    found = views(sides(tmp_path, CASES[name], mode), table)
    assert [one.what for one in found] == [
        "chat.jsonl, prompt train-0 (user)",
        "chat.jsonl, prompt train-2 (system, user)",
        "chat.jsonl, prompt train-3 (user, assistant, user)",
    ]
    warned = prompt_view.warnings(found)
    assert len(warned) == len(said)
    assert all(word in warning for word, warning in zip(said, warned, strict=True))
    printed = prompt_view.text(found)
    assert "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n" in printed
    assert all(f"warning: {warning}" in printed for warning in warned)
    assert ("Warnings stop nothing" in printed) is bool(said)


def test_what_a_provider_renders_is_shown_as_it_is_sent(tmp_path, table):
    found = views(sides(tmp_path, None, "prefill", CASES["sys-teacher"]), table)
    printed = prompt_view.text(found)
    assert (
        "its provider renders them:\nsystem: Answer with a number only.\nuser: How many" in printed
    )
    assert prompt_view.warnings(found) == [
        f"The student's prompt has text that no message has: {PIRATE!r}."
    ]


@pytest.mark.parametrize("template", [None, CHATML])
def test_in_mode_instruct_the_text_that_asks_for_it_is_shown_and_no_warning(
    tmp_path, table, template
):
    found = views(sides(tmp_path, template, "instruct"), table)
    assert prompt_view.warnings(found) == []
    printed = prompt_view.text(found)
    assert "<answer_so_far>\n(the student's text up to a fork)" in printed
    assert ("what the provider makes is not known here" in printed) is (template is None)


def test_a_template_that_is_the_students_is_not_known_before_there_is_one(tmp_path):
    for mode in ("prefill", "instruct"):
        teacher = hosted("student", mode)
        teacher.rendering.student = tmp_path
        assert teacher.template is None
        teacher.rendering.student = templated.checkpoint(tmp_path / mode, CHATML)
        assert teacher.template.chat_template == CHATML


@pytest.mark.parametrize("mode", ["completions", "prefill", "instruct"])
def test_a_prompt_that_a_template_refuses_is_named_with_roles_and_remedy(tmp_path, table, mode):
    with pytest.raises(UserError) as found:
        views(sides(tmp_path, GEMMA, mode), table)
    said = str(found.value)
    assert said.startswith("chat.jsonl, prompt train-2 ('How many legs has a cat?'): teachers.it: ")
    assert "roles system, user and says: System role not supported. Drop the system" in said
    assert "\n" not in said


def test_so_is_one_that_the_students_refuses_even_if_its_roles_were_seen(tmp_path, table):
    with pytest.raises(UserError, match=r"train-2 .*: the student: .*System role not supported"):
        views(sides(tmp_path, CHATML, student=GEMMA), table)
    picky = "{% if 'metal' in messages[0]['content'] %}{{ raise_exception('no metal') }}{% endif %}"
    with pytest.raises(UserError, match=r"train-1 \('Name a metal\.'\).*says: no metal"):
        views(sides(tmp_path, picky + CHATML), table)


def test_text_of_both_is_noted(tmp_path, table):
    found = views(sides(tmp_path, templated.LLAMA_3_1, student=templated.LLAMA_3_1), table)
    assert prompt_view.warnings(found) == []
    assert f"note: both templates add {DATES.splitlines()[0]!r}" in prompt_view.text(found)


def test_a_long_prompt_loses_its_middle_and_a_terminal_obeys_nothing(tmp_path):
    long = [{"role": "user", "content": f"begin{'x' * 5000}\x1b[2Jend"}]
    printed = prompt_view.text([prompt_view.view(sides(tmp_path, CHATML), long, "it")])
    assert printed.count("characters left out") == 2
    assert len(printed) < 3800
    assert "begin" in printed
    assert "\x1b" not in printed
    assert "\ufffd[2Jend" in printed


def test_of_many_sequences_and_warnings_the_first_are_shown(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    found = [
        prompt_view.view(
            sides(tmp_path, CASES["lastonly-teacher"]),
            [
                {"role": m["role"], "content": f"{m['content']}{n}{i}"}
                for i, m in enumerate(turns * n)
            ]
            + [{"role": "user", "content": "c"}],
            f"number {n}",
        )
        for n in range(7)
    ]
    printed = prompt_view.text(found)
    assert printed.count("--- the student's prompt:") == prompt_view.SHOWN
    assert "3 more sequences with other roles are read, not shown." in printed
    assert printed.count("\nwarning: ") == prompt_view.LISTED + 1
    assert "more like these" in printed


# the command `omniopd teacher check`


def checked(tmp_path, template, mode="completions"):
    """Its output with a teacher whose tokenizer has this template, in a project without models."""
    project = Project(tmp_path / "project")
    folder = tmp_path / "tokenizer"
    templated.tokenizer(template).save_pretrained(folder)
    with Pure().running() as server:
        api = {
            "kind": "openai_compatible", "model": "stub-1", "base_url": f"{server.url}/v1",
            "tokenizer": str(folder),
        }  # fmt: skip
        project.edit(
            experiment__arms=["omniopd"], teachers={"api": api}, arms={"omniopd": {}},
            teach__teacher="api", teach__continuation=mode,
        )  # fmt: skip
        return project.run("omniopd", "teacher", "check", check=False).stdout


def test_the_check_shows_what_the_teacher_reads_and_warns_before_it_asks(tmp_path):
    shown, _, verdict = checked(tmp_path, CASES["sys-teacher"]).partition(
        "teacher api (other stub-1"
    )
    assert "a probe (user)" in shown
    assert "a probe (system, user)" in shown
    assert "there is no student yet" in shown
    assert f"<|im_start|>system\n{PIRATE}<|im_end|>\n<|im_start|>user\nCount from 1 to 40" in shown
    assert f"warning: The teacher's prompt has text that no message has: {PIRATE!r}." in shown
    assert "It may be used." in verdict  # warnings stop nothing


@pytest.mark.slow
def test_that_a_template_refuses_a_system_role_is_a_warning_of_the_check(tmp_path):
    shown, _, verdict = checked(tmp_path, GEMMA, "prefill").partition("teacher api (other stub-1")
    assert "<start_of_turn>user\nCount from 1 to 40" in shown
    assert (
        "warning: teachers.api: its template refuses a system role (System role not supported)."
        in shown
    )
    assert "It may be used." in verdict


@pytest.mark.parametrize(
    ("listed", "shown"),
    [
        (None, "<|im_end|> (259)"),
        ([256, 259], "<|im_end|> (259), <s> (256)"),
        ([259, 99999], "<|im_end|> (259)"),  # a stale id is none of the tokenizer's
    ],
)
def test_what_ends_a_turn_is_said_of_both_sides(tmp_path, listed, shown):
    for name in ("student", "teacher"):
        templated.tokenizer(CHATML).save_pretrained(tmp_path / name)
    for name, found in (("student", 259), ("teacher", listed)):
        text = json.dumps({"eos_token_id": found})
        (tmp_path / name / "generation_config.json").write_text(text)
    both = prompt_view.sides(tmp_path / "student", hosted(tmp_path / "teacher", "prefill"), "it")
    found = prompt_view.ends([prompt_view.view(both, [{"role": "user", "content": "Hi."}], "one")])
    assert found == [
        "A turn of the student ends with <|im_end|> (259).",
        f"A turn of the teacher ends with {shown}.",
    ]
