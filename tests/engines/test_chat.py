"""What is read of a model's folder: its tokenizer, its template's date, the ends of its turns."""

import datetime
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from pipeline.config.models import HubInit
from pipeline.core.errors import UserError
from pipeline.engines import hf, pretrained
from pipeline.engines.chat import templates, tokenizer_files, turn_ends
from tests import layouts
from tests.naive import for_vllm

ASKED = [{"role": "user", "content": "1+1?"}]
TURNS = (
    "{{% for m in messages %}}{{{{ '<|' + m.role + '|>' + m.content }}}}"
    "{{% if m.role == 'assistant' %}}{{{{ {after!r} }}}}{{% endif %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
)
SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<sp>", "\n\n")


@pytest.fixture(scope="module")
def backend():
    return layouts.byte_level(SPECIAL).to_str()


def tokens(backend, template, plain=("<stop>",), eos="</s>"):
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(backend)
    found.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in SPECIAL])
    found.add_tokens([AddedToken(x, normalized=False) for x in plain])
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token=eos, chat_template=template)


def after(text):
    return TURNS.format(after=text)


def end(found):
    token = templates.template_end(found)
    return None if token is None else found.convert_ids_to_tokens(token)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("<|end|>", "<|end|>"),
        ("<|end|>\n", "<|end|>"),
        ("</s>", "</s>"),
        ("<stop>", "<stop>"),  # an added token that is not special
        ("<stop>\n<|end|>", "<stop>"),
        ("\n", None),
        ("\n\n", None),  # an added token that is blank
        (" ", None),
        ("\n<|end|>", None),  # a line break first: no model was trained to write an end there
        ("###", None),
        ("END", None),
        ("", None),
        ("<|user|>", None),  # it opens the next turn
        ("<|assistant|>", None),
        ("<|user|><|end|>", None),
    ],
)
def test_the_end_that_a_template_writes_is_an_added_token_that_opens_no_turn(
    backend, written, wanted
):
    assert end(tokens(backend, after(written))) == wanted


GLM = (
    "<s>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ALWAYS = (  # as some old templates do: a generation prompt whether asked for or not
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}END{% endfor %}<|assistant|>\n"
)
BETWEEN = (  # an end only where another turn follows
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if not loop.last %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|end|><|assistant|>{% endif %}"
)
REFUSES = "{% if messages[1:] %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}"
HIDES = "{% for m in messages %}{{ m.content if m.role == 'user' else '' }}{% endfor %}<|end|>"
ZEPHYR = (  # the roles are plain text, so that an end is the last token before a turn
    "{% for m in messages %}{{ '[' + m.role + ']\n' + m.content + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
OLMO = (  # what ends a turn also begins a conversation
    "<|end|>{% for m in messages %}{{ '[' + m.role + ']\n' + m.content }}"
    "{{ '<|end|>' if m.role == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (GLM, None),
        (GLM.replace("{{ m.content }}", "{{ m.content|trim }}"), None),
        (GLM.replace("<s>", "").replace("\n", " "), None),
        (ALWAYS, None),
        (ALWAYS.replace("END", ""), None),
        (ALWAYS.replace("END", "\n"), None),
        (ALWAYS.replace("END", "<|end|>"), "<|end|>"),
        (BETWEEN, "<|end|>"),
        (ALWAYS.replace("END", "").replace("\n", "\n\n"), None),  # a blank token behind the mark
        (ZEPHYR, "<|end|>"),
        (OLMO, "<|end|>"),
        (REFUSES, None),
        (HIDES, None),
        (None, None),
        (layouts.QWEN3.replace("<|im_end|>", "<|end|>"), "<|end|>"),
        (layouts.PHI3, "<|end|>"),
        (layouts.GEMMA.replace("<end_of_turn>", "<|end|>").replace("bos_token", "''"), "<|end|>"),
    ],
)
def test_ends_of_whole_templates(backend, template, wanted):
    assert end(tokens(backend, template)) == wanted


def resolved(found, generation, size=None):
    ends = turn_ends.resolve(found, generation, size or len(found), "model")
    return dict(zip(found.convert_ids_to_tokens(ends.ids), ends.sources, strict=True))


def test_ends_are_a_set_and_the_one_that_is_written_comes_first(backend):
    found = tokens(backend, after("<|end|>"))
    ids = [found.convert_tokens_to_ids(x) for x in ("</s>", "<|user|>", "<|end|>")]
    own, tokenizers, listed = "chat template", "tokenizer.eos_token", "generation_config.json"
    assert resolved(found, None) == {"<|end|>": own, "</s>": tokenizers}
    assert resolved(found, ids) == {"<|end|>": own, "</s>": tokenizers, "<|user|>": listed}
    assert list(resolved(found, ids)) == ["<|end|>", "</s>", "<|user|>"]
    assert resolved(tokens(backend, after("")), ids[1]) == {"</s>": tokenizers, "<|user|>": listed}
    assert resolved(tokens(backend, GLM, eos=None), [ids[1]]) == {"<|user|>": listed}


def test_ids_of_the_generation_config_that_cannot_be_written_are_left_out(backend):
    found = tokens(backend, after("<|end|>"))
    assert "generation_config.json" not in resolved(found, [len(found) + 3, 99999]).values()


def test_no_end_at_all_is_refused(backend):
    for template in (GLM, after("\n"), after("END")):
        with pytest.raises(UserError, match="names an end of a turn"):
            resolved(tokens(backend, template, eos=None), None)


@pytest.mark.parametrize(
    ("written", "eos"), [("<stop>", "</s>"), ("", "<stop>"), ("<stop>", "<stop>")]
)
def test_an_end_beyond_the_head_is_refused(backend, written, eos):
    found = tokens(backend, after(written), eos=eos)
    with pytest.raises(UserError, match=r"<stop> \(id .*\), and its head has only"):
        resolved(found, None, size=found.convert_tokens_to_ids("<stop>"))


DATED = "{{%- set today = strftime_now({0!r}) -%}}{{{{ today }}}} {{{{ messages[0].content }}}}"


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2031, 2, 3, 4, 5, 6)


@pytest.fixture
def later(monkeypatch):
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    ("format_", "wanted"),
    [
        ("%d %b %Y", "26 Jul 2024"),
        ("%B %d, %Y", "July 26, 2024"),
        ("%-d/%-m/%y", "26/7/24"),
        ("%Y-%m-%d", "2024-07-26"),
        ("%A, %a", "Friday, Fri"),
        ("100%% of %Y", "100% of 2024"),
        ("%%d is %d", "%d is 26"),
        ("%j %H:%M", "208 00:00"),
        ("no date", "no date"),
    ],
)
def test_a_date_is_the_pinned_one_in_any_format(backend, format_, wanted):
    found = tokens(backend, DATED.format(format_))
    raw = templates.render(found, ASKED, "")
    found.chat_template = templates.template(found.chat_template, "")
    assert templates.render(found, ASKED, "") == f"{wanted} 1+1?"
    assert raw == f"{Clock.now().strftime(format_)} 1+1?"


@pytest.mark.parametrize("day", ["2023-01-05", "2024-02-29", "2026-12-01"])
def test_a_date_of_params_is_read_instead(backend, day):
    found = tokens(backend, templates.pinned(DATED.format("%-d %B %Y"), day))
    wanted = datetime.date.fromisoformat(day).strftime("%-d %B %Y")
    assert templates.render(found, ASKED, "") == f"{wanted} 1+1?"
    assert templates.pinned(found.chat_template, "2000-01-01") == found.chat_template  # it is there


@pytest.mark.usefixtures("later")
def test_a_template_that_asks_whether_there_is_a_clock_finds_the_pinned_one(backend):
    asking = (
        '{%- if strftime_now is defined %}{%- set today = strftime_now("%d %b %Y") %}'
        '{%- else %}{%- set today = "none" %}{%- endif -%}{{ today }}'
    )
    once = templates.pinned(asking, None)
    assert templates.render(tokens(backend, once), ASKED, "") == "26 Jul 2024"
    assert templates.pinned(once, None) == once
    for generation in (True, False):
        assert templates.render(tokens(backend, once), ASKED, "", generation) == "26 Jul 2024"


@pytest.mark.parametrize("template", [GLM, layouts.QWEN3, layouts.MISTRAL, ""])
def test_a_template_without_a_date_stays_as_it_is(template):
    assert templates.pinned(template, "2020-01-01") == template


def test_of_several_templates_the_default_is_taken_and_none_is_guessed():
    several = {"default": GLM, "tool_use": ALWAYS}
    assert templates.template(several, "m") == GLM
    with pytest.raises(UserError, match=r"\['rag', 'tool_use'\], wanted one named 'default'"):
        templates.template({"tool_use": GLM, "rag": GLM}, "m")
    assert templates.template(None, "m") is None


def test_named_templates_of_a_folder(tmp_path):
    folder = layouts.folder(layouts.QWEN_3, tmp_path)
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": layouts.QWEN3}]
    layouts.edit(folder / "tokenizer_config.json", chat_template=named)
    assert tokenizer_files.read_in(folder, "m").chat_template == layouts.QWEN3
    layouts.edit(folder / "tokenizer_config.json", chat_template=named[:1])
    with pytest.raises(UserError, match="wanted one named 'default'"):
        tokenizer_files.read_in(folder, "m")


@pytest.mark.parametrize("layout", [layouts.DISTILL, layouts.MISTRAL_7, layouts.GEMMA_3])
@pytest.mark.parametrize(
    "class_", ["LlamaTokenizerFast", "GPT2TokenizerFast", "GemmaTokenizer", "NoSuchTokenizer", None]
)
def test_tokenizer_json_is_the_truth_whatever_class_is_named(layout, class_, tmp_path):
    layouts.fast(layout).save_pretrained(tmp_path)
    layouts.edit(tmp_path / "tokenizer_config.json", tokenizer_class=class_, backend=None)
    truth = tokenizer_files.checkpoints.tokenizer(tmp_path / "tokenizer.json")
    found = tokenizer_files.read_in(tmp_path, "m")
    tokenizer_files.save(found, tmp_path / "saved")
    for again in (found, tokenizer_files.load(tmp_path / "saved")):
        for text in (*layouts.TEXT, *tokenizer_files.PROBES, " a", "the carried", "\n12"):
            wanted = truth.encode(text, add_special_tokens=False).ids
            assert again.encode(text, add_special_tokens=False) == wanted
        assert again.eos_token == layout.eos


def test_a_limit_that_was_saved_in_tokenizer_json_cuts_nothing(tmp_path):
    found = layouts.fast(layouts.DISTILL)
    found.backend_tokenizer.enable_truncation(5)
    found.save_pretrained(tmp_path)
    layouts.edit(tmp_path / "tokenizer_config.json", model_max_length=5)
    text = "The carriage was carried over the hill."
    assert len(tokenizer_files.read_in(tmp_path, "m").encode(text, add_special_tokens=False)) > 10
    tokenizer_files.save(tokenizer_files.read_in(tmp_path, "m"), tmp_path / "saved")
    assert len(tokenizer_files.load(tmp_path / "saved").encode(text, add_special_tokens=False)) > 10


def test_a_tokenizer_without_tokenizer_json_is_compared_with_its_text(tmp_path):
    """GPT-2's two files are all that it is, so it is converted; half of them are refused."""
    vocabulary = json.loads(layouts.byte_level(("<|endoftext|>",)).to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    merges = [" ".join(x) for x in vocabulary["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    found = tokenizer_files.read_in(tmp_path, "m")
    for text in layouts.TEXT:
        assert found.decode(found.encode(text)) == text
    tokenizer_files.save(found, tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    short = {k: v for k, v in vocabulary["vocab"].items() if len(k) > 1 or k.isalpha()}
    (tmp_path / "vocab.json").write_text(json.dumps(short))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match="wanted the same text"):
        tokenizer_files.read_in(tmp_path, "m")


@pytest.mark.parametrize("prefix", [False, True])
def test_a_sentencepiece_model_that_is_converted_to_other_ids_is_refused(prefix, tmp_path):
    """transformers 5.19 puts a space first where the model has none, and none where a text begins
    with one."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    (tmp_path / "text").write_text("\n".join(layouts.TEXT * 4))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=380,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2, character_coverage=0.98,
        allow_whitespace_only_pieces=True, split_digits=True,
        add_dummy_prefix=prefix,
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    config = {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>", "legacy": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"wanted .* as sentencepiece on its tokenizer.model"):
        tokenizer_files.read_in(tmp_path, "m")


def test_what_a_sentencepiece_model_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr(tokenizer_files, "_installed", lambda name: False)
    with pytest.raises(UserError, match="pip install sentencepiece protobuf`, or use a revision"):
        tokenizer_files.read_in(tmp_path, "m")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A whole model, and an adapter of peft's on it that changes what it says."""
    folder = tmp_path_factory.mktemp("adapted")
    base = layouts.folder(layouts.QWEN_3, folder / "base")
    model, _ = pretrained.from_hub(HubInit(kind="hub", name=str(base)))
    torch.manual_seed(3)
    how = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    wrapped = get_peft_model(model, how)
    wrapped.save_pretrained(folder / "adapter")
    layouts.edit(folder / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
    return folder, wrapped


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


def test_a_student_that_is_an_adapter_is_loaded_on_its_base(adapted, tmp_path):
    folder, wrapped = adapted
    model, found = pretrained.from_hub(HubInit(kind="hub", name=str(folder / "adapter")))
    ids = found.encode("The carriage", add_special_tokens=False)
    assert torch.allclose(logits(model, ids), logits(wrapped.eval(), ids), atol=1e-5)
    plain, _ = pretrained.from_hub(HubInit(kind="hub", name=str(folder / "base")))
    assert not torch.allclose(logits(model, ids), logits(plain, ids), atol=1e-3)
    hf.save(model, found, tmp_path / "saved", torch.float32)
    policy = hf.load(tmp_path / "saved")  # a whole checkpoint, with the base's ends and template
    assert found.convert_ids_to_tokens(policy.ends) == list(layouts.QWEN_3.ends)
    assert policy.tokenizer.chat_template == layouts.QWEN3


@pytest.mark.parametrize("base", ["", "nobody/no-such-model", "/nowhere/at/all"])
def test_an_adapter_without_its_base_says_which_it_needs(adapted, base, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder, _ = adapted
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((folder / "adapter" / name).read_bytes())
    layouts.edit(tmp_path / "adapter_config.json", base_model_name_or_path=base)
    with pytest.raises(UserError, match=f"it is an adapter .LORA. on the base '{base}'"):
        pretrained.from_hub(HubInit(kind="hub", name=str(tmp_path)))


def test_a_base_that_the_adapter_does_not_fit_is_refused(adapted, tmp_path):
    folder, _ = adapted
    config = for_vllm(340)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    layouts.fast(layouts.QWEN_3).save_pretrained(tmp_path / "base")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((folder / "adapter" / name).read_bytes())
    layouts.edit(tmp_path / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(UserError, match="it is an adapter"):
        pretrained.from_hub(HubInit(kind="hub", name=str(tmp_path)))
