"""Prompts that were rendered elsewhere, and plain ones that only look a little like it."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.commands.audit import audit_params
from pipeline.core.errors import UserError
from pipeline.data import prompts
from pipeline.engines import char_tokenizer
from pipeline.engines.chat import prerendered
from pipeline.training import imported_rows
from stages.evaluate import evaluate
from stages.rollout import rollout
from tests import naive

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
GEMMA = (
    "<bos>{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA_3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>"
    "\n\n{{ m['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>"
    "assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{{ m['role'] | upper }}: {{ m['content'] }}\n{% endfor %}ASSISTANT:"
)


def tokenizer(template, special, other=(), **named):
    """Of bytes, as public models have them, with a few added tokens."""
    found = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(BYTES)}, merges=[]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in special])
    found.add_tokens([AddedToken(x, special=False, normalized=False) for x in other])
    fast = PreTrainedTokenizerFast(tokenizer_object=found, **named)
    fast.chat_template = template
    return fast


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
STUDENTS = {
    "chatml": tokenizer(
        CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<filename>"],
        ["<think>", "</think>", "<tool_call>"], eos_token="<|im_end|>", pad_token="<|endoftext|>",
    ),
    "gemma": tokenizer(
        GEMMA, ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
        ["\n", "\n\n", "  ", "<table>", "<code>", "user"],
        bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
    ),
    "llama": tokenizer(
        LLAMA_3, ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
    ),
    "mistral": tokenizer(
        MISTRAL, ["<s>", "</s>"], ["[INST]", "[/INST]", "[TOOL"], bos_token="<s>", eos_token="</s>"
    ),
    "words": tokenizer(VICUNA, ["<s>", "</s>"], bos_token="<s>", eos_token="</s>"),
    "characters": char_tokenizer.tokenizer("0123456789+=,;#?<>[]| abc"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("student", "text", "said"),
    [
        ("chatml", "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n", "im_sta"),
        ("chatml", "Name a colour.<|im_end|>", "'<|im_end|>'"),
        ("chatml", "<|endoftext|><|endoftext|>Name a colour.", "'<|endoftext|>'"),
        ("chatml", "user\nName a colour.\nassistant\n<think>\n\n</think>\n\n", "'user\\n' and "),
        ("gemma", "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "'<bos>'"),
        ("gemma", "<start_of_turn>user\nHi", "'<start_of_turn>'"),
        ("gemma", "<pad><pad>Hi", "'<pad>'"),
        ("gemma", "user\nHi\nmodel\n", "'user\\n' and '\\nmodel\\n'"),
        ("llama", "<|start_header_id|>user<|end_header_id|>\n\nHi", "'<|start_header_id|>'"),
        ("llama", "user\n\nHiassistant\n\n", "which the student's template writes"),
        ("mistral", "<s>[INST] Hi [/INST]", "'<s>'"),
        ("mistral", "[INST] Hi [/INST]", "'[INST]'"),
        ("words", "USER: Hi\nASSISTANT:", "'USER: ' and '\\nASSISTANT:'"),
        ("words", "<s>USER: Hi", "'<s>'"),
        ("characters", "<eos>1+1?", "'<eos>'"),
    ],
)
def test_what_templates_write_is_found(student, text, said):
    found = prerendered.marks(STUDENTS[student]).found(text)
    assert found is not None
    assert said in found


PLAIN = [
    "Is 3 < 4 and x > [1, 2] | y?",
    "Let f: [0,1] -> R with |f(x)| <= 1; a<b>c",
    "Reason in <think> </think> tags, then <answer> </answer>.",
    "Call a tool in <tool_call></tool_call>.",
    "Usage: cp <filename> DEST",
    "<table><code>x</code></table>",
    "the <unk> of wikitext",
    "first\n\nsecond  third\n",
    "user\nand assistant",
    "What does a user say to an assistant\n",
    "USER: is a word",
    "a|im_start|b [INST",
    "[x] [TODO] list[0]",
]


@pytest.mark.parametrize("text", PLAIN)
@pytest.mark.parametrize("student", STUDENTS)
def test_plain_prompts_pass(student, text):
    assert prerendered.marks(STUDENTS[student]).found(text) is None


@pytest.mark.parametrize("student", STUDENTS)
def test_what_the_own_template_renders_is_always_found(student):
    own = STUDENTS[student]
    for said in ([], [{"role": "assistant", "content": "a1"}, {"role": "user", "content": "2?"}]):
        messages = [{"role": "user", "content": "1?"}, *said]
        text = own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        found = prerendered.marks(own).found(text)
        assert (found is None) == (student == "characters")  # its template adds nothing


def test_the_first_token_in_the_text_is_named_and_the_longest_at_one_place():
    tokens = ("<|im|>", "<|im", "<s>")
    assert prerendered.already_rendered("a <|im|> <s>", tokens) == "<|im|>"
    assert prerendered.already_rendered("a <s> <|im|>", tokens) == "<s>"
    assert prerendered.already_rendered("a < s > | im", tokens) is None
    assert prerendered.already_rendered("", tokens) is None


def test_a_template_that_refuses_still_has_tokens():
    own = tokenizer("{{ raise_exception('no') }}", ["<|a|>"])
    assert prerendered.marks(own) == (("<|a|>",), "", "")
    own = tokenizer(None, ["<|a|>"])
    assert prerendered.marks(own) == (("<|a|>",), "", "")


@pytest.fixture(scope="module")
def policy():
    return naive.tiny(1)


def asked(*contents):
    return [
        prompts.Prompt(f"train-{i}", "prompts", [{"role": "user", "content": x}], x, "")
        for i, x in enumerate(contents)
    ]


def test_rollout_and_evaluate_refuse_before_anything_is_computed(policy):
    rows = asked("1+1?", "<eos>2+2?")
    said = "prompts table, prompt_id train-1: message 1 .user.: found the student's special token"
    nothing = None  # neither stage gets as far as its params
    with pytest.raises(UserError, match=said):
        list(rollout(policy, rows, nothing, 64, {}))
    with pytest.raises(UserError, match=said):
        list(evaluate(policy, rows, nothing, 64, {}))


def lines(path, *found):
    path.write_text("".join(json.dumps(x) + "\n" for x in found))
    return path


@pytest.mark.parametrize("imports", [False, True])
def test_audit_and_import_refuse_by_file_and_line_before_any_stage(tmp_path, imports):
    STUDENTS["chatml"].save_pretrained(tmp_path / "student")
    rendered = "<|im_start|>user\nName a metal.<|im_end|>\n<|im_start|>assistant\n"
    more = {"text": "Tin.", "finish_reason": "stop"} if imports else {}
    path = lines(tmp_path / "x.jsonl", {"prompt": "Hi", **more}, {"prompt": rendered, **more})
    options = audit_params.Options(
        str(tmp_path / "student"), "t", path, tmp_path / "out", imported=imports
    )
    with pytest.raises(UserError) as caught:
        audit_params.fitted(options)
    for said in ("x.jsonl, line 2: ", "'<|im_start|>'", "Give `messages`", "`prompt_token_ids`"):
        assert said in str(caught.value)
    lines(path, {"prompt": "Hi", **more}, {"prompt": "Is <think> a tag?", **more})
    assert audit_params.fitted(options).count == 2


def test_a_student_that_is_no_folder_is_left_to_the_rollout_stage(tmp_path):
    assert prerendered.of_folder(Path("some/hub-name")) is None
    assert prerendered.of_folder(Path("package/file.gguf")) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    path = lines(
        tmp_path / "x.jsonl", {"prompt": "<|im_start|>", "text": "a", "finish_reason": "stop"}
    )
    assert imported_rows.prompts_of(path, None) == 1
