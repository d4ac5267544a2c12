"""What a chat template makes of messages: what it drops, adds, opens, and refuses."""

import importlib.util
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.engines.chat import rendered
from tests import templated
from tests.templated import CASES, CHATML

ALONE = [{"role": "user", "content": "Name a colour."}]
SYSTEM = [{"role": "system", "content": "Answer with a number only."}]
SYSTEM += [{"role": "user", "content": "How many legs has a cat?"}]
TURNS = [
    {"role": "user", "content": "Say hi."},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "Now count to three."},
]


def read(template, messages, owner="it"):
    return rendered.read(templated.tokenizer(template), messages, owner)


def warned(teacher, messages, student=CHATML):
    return rendered.warnings(read(student, messages), read(teacher, messages))


QUIET = ("CHATML", "LLAMA_2", "MISTRAL", "PHI_3", "LLAMA_3", "QWEN_3", "VICUNA", "OPENCHAT")


@pytest.mark.parametrize("name", [*QUIET, "GEMMA", "PHI_3_FIRST", "HARMONY"])
@pytest.mark.parametrize("messages", [ALONE, TURNS])
def test_templates_of_public_models_that_say_what_the_messages_say_get_no_warning(name, messages):
    assert warned(getattr(templated, name), messages) == []
    assert warned(CHATML, messages, getattr(templated, name)) == []


@pytest.mark.parametrize("name", [name for name in QUIET if name != "MISTRAL"])
def test_nor_do_they_with_a_system_message(name):
    assert warned(getattr(templated, name), SYSTEM) == []


@pytest.mark.parametrize("messages", [ALONE, SYSTEM, TURNS])
@pytest.mark.parametrize("name", ["PLAIN", "R1", "ALPACA", "LLAMA_3_1", "QWEN_2_5"])
def test_equal_templates_differ_in_nothing_but_may_open_a_think_block(name, messages):
    own = getattr(templated, name)
    found = warned(own, messages, own)
    assert all("open think block (<think>)" in warning for warning in found)
    assert len(found) == (2 if name == "R1" else 0)


@pytest.mark.parametrize(
    ("template", "messages", "lacks"),
    [
        (CASES["dropsys-teacher"], SYSTEM, ["system message 'Answer with a number only.'"]),
        (CASES["dropsys-teacher"], TURNS, ["assistant message 'hi'"]),
        (CASES["lastonly-teacher"], SYSTEM, ["user message 'How many legs has a cat?'"]),
        (
            CASES["lastonly-teacher"],
            TURNS,
            ["assistant message 'hi'", "user message 'Now count to three.'"],
        ),
        (templated.PHI_3_FIRST, SYSTEM, ["system message 'Answer with a number only.'"]),
    ],
)
def test_a_message_that_a_template_drops_is_named_on_the_side_that_lacks_it(
    template, messages, lacks
):
    for side, found in (
        ("teacher", warned(template, messages)),
        ("student", warned(CHATML, messages, template)),
    ):
        assert found == [
            f"The {side}'s prompt lacks the {x}: its template drops it." for x in lacks
        ]


def test_a_message_is_missing_although_its_letters_stand_elsewhere():
    messages = [*SYSTEM, {"role": "assistant", "content": "cat"}, {"role": "user", "content": "a"}]
    found = warned(CASES["dropsys-teacher"], messages)
    assert [w.split(" lacks the ")[1][:9] for w in found] == ["system me", "assistant"]


def test_a_message_is_named_by_its_first_forty_characters():
    long = [{"role": "system", "content": "x" * 41}, *ALONE]
    (found,) = warned(CASES["dropsys-teacher"], long)
    assert f"'{'x' * 40}...'" in found


def test_a_message_that_is_trimmed_is_there_and_one_that_is_cut_is_not_whole():
    padded = [{"role": "user", "content": "  Name a colour.\n"}]
    assert warned(templated.GEMMA, padded) == []
    thought = [TURNS[0], {"role": "assistant", "content": "<think>greet</think>hi"}, TURNS[2]]
    (found,) = warned(templated.QWEN_3, thought)
    assert found == (
        "The teacher's prompt holds the assistant message '<think>greet</think>hi' only in part "
        "or changed."
    )
    assert warned(CHATML, [{"role": "system", "content": " "}, *ALONE]) == []  # nothing to miss


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (CASES["sys-teacher"], templated.PIRATE),
        (templated.LLAMA_3_1, templated.DATES.replace("\n", " ")),
        (
            templated.QWEN_2_5,
            "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        ),
        (templated.ALPACA, templated.BELOW),
        (CHATML.replace("{{ m['content'] }}", "{{ m['content'] }} /no_think"), "/no_think"),
        (CHATML + "Sure, here it is", "Sure, here it is"),
    ],
)
def test_added_text_is_quoted_on_the_side_that_adds_it(template, text):
    end = f"has text that no message has, and the {{}}'s lacks it: {text!r}."
    assert warned(template, ALONE) == ["The teacher's prompt " + end.format("student")]
    assert warned(CHATML, ALONE, template) == ["The student's prompt " + end.format("teacher")]


def test_a_default_system_prompt_is_added_only_where_none_is_given():
    for name in (CASES["sys-teacher"], templated.QWEN_2_5):
        assert warned(name, SYSTEM) == []
        assert len(warned(name, TURNS)) == 1


def test_text_that_both_add_is_shared_and_no_warning():
    both = read(templated.LLAMA_3_1, ALONE), read(templated.LLAMA_3_1, ALONE)
    assert rendered.warnings(*both) == []
    assert rendered.shared(*both) == templated.DATES.split("\n")
    later = templated.LLAMA_3_1.replace("26 Jul 2024", "28 Nov 2026")
    assert ["Today Date" in warning for warning in warned(later, ALONE, templated.LLAMA_3_1)] == [
        True,
        True,
    ]


def test_words_of_the_messages_are_never_added_text():
    said = "user: assistant <|im_end|> [INST] Below is <think> Today Date: {{ 1 }}"
    for template in (CHATML, templated.LLAMA_3, templated.MISTRAL):
        assert warned(template, [{"role": "user", "content": said}]) == []


@pytest.mark.parametrize(
    ("template", "tag"),
    [
        (CASES["think-teacher"], "<think>"),
        (templated.R1, "<think>"),
        (CHATML.replace("assistant\n{%", "assistant\n<reasoning>{%"), "<reasoning>"),
        (CHATML.replace("assistant\n{%", "assistant\n<think></think><think>{%"), "<think>"),
        (
            templated.HARMONY.replace("assistant{%", "assistant<|channel|>analysis{%"),
            "<|channel|>analysis",
        ),
        (templated.MISTRAL + "[THINK]", "[THINK]"),
    ],
)
@pytest.mark.parametrize("messages", [ALONE, TURNS])
def test_a_think_block_that_stays_open_is_named(template, tag, messages):
    for side, found in (
        ("teacher", warned(template, messages)),
        ("student", warned(CHATML, messages, template)),
    ):
        assert [
            f"The {side}'s prompt ends inside an open think block ({tag})" in w for w in found
        ] == [True]


def test_a_closed_think_block_and_one_that_a_message_opens_are_none():
    assert warned(templated.QWEN_3, ALONE) == []
    assert warned(CHATML, [{"role": "user", "content": "What does <think> do?"}]) == []


@pytest.mark.parametrize(
    "template",
    [
        CASES["nogen-teacher"],
        templated.LLAMA_3.partition("{% if add_generation_prompt %}")[0],
        templated.GEMMA.partition("{% if add_generation_prompt %}")[0],
        templated.VICUNA.partition("{% if add_generation_prompt %}")[0],
        templated.PLAIN,
    ],
)
@pytest.mark.parametrize("messages", [ALONE, TURNS])
def test_a_prompt_that_ends_like_a_users_turn_has_no_assistant_header(template, messages):
    said = "'s prompt ends without an assistant header"
    assert [said in w and "teacher" in w for w in warned(template, messages)] == [True]
    assert [said in w and "student" in w for w in warned(CHATML, messages, template)] == [True]


def test_two_templates_without_header_are_warned_of_unless_an_answer_would_begin_like_that():
    assert len(warned(CASES["nogen-teacher"], ALONE, CASES["nogen-teacher"])) == 2
    assert warned(templated.PLAIN, ALONE, templated.PLAIN) == []
    lines = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert warned(lines, TURNS, templated.PLAIN) == []


def test_a_side_that_is_not_known_gets_no_warning_and_the_other_its_own():
    assert rendered.warnings(read(CHATML, ALONE), None) == []
    (found,) = rendered.warnings(read(CASES["sys-teacher"], ALONE), None)
    assert found == f"The student's prompt has text that no message has: {templated.PIRATE!r}."
    (found,) = rendered.warnings(None, read(CASES["nogen-teacher"], ALONE))
    assert found.startswith("The teacher's prompt ends without an assistant header")


@pytest.mark.parametrize(
    ("template", "messages", "roles", "words"),
    [
        (templated.GEMMA, SYSTEM, "system, user", "System role not supported"),
        (templated.MISTRAL, SYSTEM, "system, user", "Conversation roles must alternate"),
        (templated.GEMMA, [ALONE[0], ALONE[0]], "user, user", "Conversation roles must alternate"),
        (templated.LLAMA_2, TURNS[1:], "assistant, user", "Conversation roles must alternate"),
    ],
)
def test_a_refusal_names_roles_the_templates_words_and_a_remedy(template, messages, roles, words):
    with pytest.raises(UserError) as found:
        read(template, messages, "teachers.it")
    assert f"teachers.it: its chat template refuses messages with the roles {roles}" in str(
        found.value
    )
    assert words in str(found.value)
    assert "init.chat_template" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_template_that_looks_into_the_contents_is_read_all_the_same():
    picky = "{% if 'colour' not in messages[-1]['content'] %}{{ raise_exception('no') }}{% endif %}"
    assert warned(picky + CHATML, ALONE) == []
    (found,) = warned(picky + CASES["sys-teacher"], ALONE)
    assert templated.PIRATE in found


TRL = importlib.util.find_spec("trl")


@pytest.mark.skipif(TRL is None, reason="TRL, which brings templates of public models, is not here")
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("gemma3", "phi3", "qwen3", "qwen3_6", "llama3"), ""),
        (("glm4moe",), "text that no message has, and the student's lacks it: '/nothink'."),
        (("llama3_1", "llama3_2"), "Cutting Knowledge Date: December 2023 Today Date: "),
        (("gptoss",), "You are ChatGPT, a large language model trained by OpenAI."),
        (("qwen2_5",), "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
        (("deepseekv3", "deepseek_r1_distill"), "open think block (<think>)"),
        (("smolvlm", "idefics3"), "lacks the user message 'Name a colour.'"),  # they want parts
    ],
)
def test_templates_as_their_makers_write_them(names, said):
    folder = Path(TRL.submodule_search_locations[0]) / "chat_templates"
    for name in names:
        found = warned((folder / f"{name}.jinja").read_text(), ALONE)
        assert [said in warning for warning in found] == [True] * bool(said), name
