"""Odd folders that are read in: vocabularies, templates, adapters, hosted teachers' tokenizers."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken

from pipeline import teachers
from pipeline.config.models import HubInit
from pipeline.config.params import Runtime
from pipeline.config.teachers import OpenAICompatibleTeacher
from pipeline.core.errors import UserError
from pipeline.data.text import encode_after
from pipeline.engines import hf, pretrained
from pipeline.engines.chat import templates, tokenizer_files, turn_ends
from pipeline.teachers import protocol
from pipeline.teachers.purchase.truncation import Prefix, cut
from tests import layouts
from tests.teachers.purchase.test_cut import Said, judgment

TURN = [{"role": "user", "content": "Hi."}]


def read_in(folder, **init):
    return pretrained.from_hub(HubInit(kind="hub", name=str(folder), **init))


def saved(folder, path):
    model, tokens = read_in(folder)
    hf.save(model, tokens, path, torch.float32)
    return hf.load(path)


def logits(model):
    with torch.no_grad():
        return model(torch.arange(5, 25)[None]).logits


@pytest.mark.parametrize("whole", [["lm_head"], ["norm"], ["embed_tokens", "lm_head"]])
def test_modules_that_an_adapter_trained_whole_are_in_the_checkpoint(whole, tmp_path):
    base = layouts.folder(replace(layouts.LLAMA_3, name="untied"), tmp_path / "base")
    model, _ = read_in(base)
    model.config.tie_word_embeddings = False
    how = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=whole, init_lora_weights=False)
    wrapped = get_peft_model(model, how)
    for name, weight in wrapped.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.2)
    wrapped.save_pretrained(tmp_path / "adapter")
    layouts.edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
    tied = json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    if tied and "norm" not in whole:
        with pytest.raises(UserError, match="merge the two with peft"):
            read_in(tmp_path / "adapter")
        return
    found = saved(tmp_path / "adapter", tmp_path / "saved" / "checkpoint")
    assert torch.allclose(logits(found.model), logits(wrapped), atol=1e-5)


def test_an_adapter_that_knows_more_tokens_than_its_base_says_what_to_do(tmp_path):
    base = layouts.folder(layouts.QWEN_3, tmp_path / "base")
    model, _ = read_in(base)
    model.resize_token_embeddings(model.get_input_embeddings().weight.shape[0] + 4)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    layouts.edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
    with pytest.raises(UserError, match=r"it is an adapter .*merge_and_unload"):
        read_in(tmp_path / "adapter")


@pytest.mark.parametrize("more", [1, 3])
def test_tokens_that_the_head_has_no_row_for_are_no_tokens_of_the_model(more, tmp_path):
    folder = layouts.folder(layouts.GEMMA_3, tmp_path / "gemma")
    model, tokens = read_in(folder)
    rows = model.get_output_embeddings().weight.shape[0]
    tokens.add_tokens([f"<image{i}>" for i in range(rows - len(tokens) + more)])
    policy = hf.policy_of(model, tokens, "cpu")
    assert len(policy.unused_vocab_mask) == rows < len(tokens)
    assert not policy.unused_vocab_mask[list(policy.ends)].any()


@pytest.mark.parametrize("at", [400, 1000, 5000])
def test_an_end_behind_a_hole_in_the_vocabulary_is_an_end(at, tmp_path):
    tokens = layouts.fast(layouts.LLAMA_3)
    text = json.loads(tokens.backend_tokenizer.to_str())
    token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    text["added_tokens"].append({"id": at, "content": "<|stop|>", "special": True, **token})
    text["model"]["vocab"]["<|stop|>"] = at
    tokens.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(text))
    found = tokenizer_files.read_in(tmp_path, "m")
    assert found.convert_tokens_to_ids("<|stop|>") == at > len(found)
    ends = turn_ends.resolve(found, [at], at + 1, "m")
    assert at in ends.ids
    assert at not in turn_ends.resolve(found, [at + 1], at + 1, "m").ids  # no token has this id


@pytest.mark.parametrize("named", [("rag", "tool_use"), ("rag",), ("a", "b", "c")])
def test_a_given_template_takes_the_place_of_named_ones(named, tmp_path):
    folder = layouts.folder(layouts.QWEN_3, tmp_path / "m")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    several = [{"name": x, "template": f"{x} {{{{ messages[0].content }}}}"} for x in named]
    layouts.edit(folder / "tokenizer_config.json", chat_template=several)
    with pytest.raises(UserError, match=r"wanted one named 'default'. Write the one to use into"):
        read_in(folder)
    _, tokens = read_in(folder, chat_template=layouts.QWEN_3.template)
    assert templates.render(tokens, TURN, "m").startswith("<|im_start|>user\nHi.")


def hosted(folder, mode="prefill", context=None):
    config = OpenAICompatibleTeacher(
        kind="openai_compatible", provider="vllm", model="m", base_url="http://127.0.0.1:1/v1",
        tokenizer=str(folder), context=context,
    )  # fmt: skip
    return teachers.load(config, "it", protocol.Asked(mode, 1.0, "live", Runtime()), folder, None)


def test_a_hosted_teachers_tokenizer_need_not_name_an_end(tmp_path):
    tokens = layouts.fast(layouts.QWEN_3)
    tokens.eos_token = None
    tokens.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    tokens.save_pretrained(tmp_path)
    assert hosted(tmp_path).ends == ()
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4, 99999]}')
    assert hosted(tmp_path).ends == (3, 4)


@pytest.mark.parametrize("text", ['x = "a"\n' * 40, "\t\n" * 60, "\\frac{1}{2}\n" * 30])
def test_a_prompt_of_messages_is_not_counted_as_its_json(text, tmp_path):
    tokens = layouts.fast(layouts.QWEN_3)
    tokens.save_pretrained(tmp_path)
    teacher = hosted(tmp_path)
    prompt = teacher.prompt([{"role": "user", "content": text}], [], "")
    assert teacher.size(prompt) == len(tokens.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("text", ["the car", "carry on", "1 and 2"])
def test_an_answer_begins_as_the_template_writes_it(text, tmp_path):
    tokens = layouts.fast(layouts.MISTRAL_7)
    assert templates.lead(tokens) == " "
    prompt = templates.encode(tokens, templates.render(tokens, TURN, "m"))
    whole = templates.render(
        tokens, [*TURN, {"role": "assistant", "content": text}], "m", generation=False
    )
    said, before = Said(text, True, None), Prefix("", prompt, templates.lead(tokens))
    found = cut(judgment(), said, before, False, tokens.backend_tokenizer, 99)
    written = [*prompt, *found.token_ids]
    assert templates.encode(tokens, whole)[: len(written)] == written
    assert found.text == text


def test_templates_that_lead_with_nothing_add_nothing():
    for layout in (layouts.LLAMA_3, layouts.GEMMA_3, layouts.QWEN_3, layouts.DISTILL):
        assert templates.lead(layouts.fast(layout)) == ""


@pytest.mark.parametrize("text", ["\n\nthe car", "   the car", "\tthe car"])
def test_blanks_behind_a_token_that_takes_them_are_kept(text):
    tokens = layouts.fast(layouts.PHI_3)
    prompt = templates.encode(tokens, templates.render(tokens, TURN, "m"))
    found = encode_after(tokens.backend_tokenizer, prompt, text)
    own = AddedToken("<|assistant|>").content
    start = tokens.decode(prompt)
    assert own in start
    assert tokens.decode([*prompt, *found]) == start + text


@pytest.mark.parametrize(
    ("written", "shown"),
    [("%F", "2026-01-02"), ("%D", "01/02/26"), ("%e", " 2"), ("%T", "00:00:00"), ("%h", "Jan")],
)
def test_a_pinned_date_knows_the_formats_of_the_platform(written, shown):
    tokens = layouts.fast(layouts.QWEN_3)
    tokens.chat_template = templates.pinned(f'{{{{ strftime_now("{written}") }}}}', "2026-01-02")
    assert templates.render(tokens, TURN, "m") == shown


HEADERS = "<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}"


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        # the assistant's header is always written, and no end
        ("{% for m in messages %}" + HEADERS + "{% endfor %}<|start_header_id|>assistant"
         "<|end_header_id|>", None),
        # plain names of roles, an end behind each turn
        ("{% for m in messages %}GPT4 {{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}"
         "{% if add_generation_prompt %}GPT4 assistant:{% endif %}", "<|eot_id|>"),
        # both
        ("{% for m in messages %}" + HEADERS + "<|eot_id|>{% endfor %}<|start_header_id|>assistant"
         "<|end_header_id|>", "<|eot_id|>"),
        # an end that is written only where another turn follows
        ("{% for m in messages %}" + HEADERS + "{% if not loop.last %}<|eot_id|>{% endif %}"
         "{% endfor %}", "<|eot_id|>"),
    ],
)  # fmt: skip
def test_an_end_is_told_from_what_opens_a_turn(template, wanted):
    tokens = layouts.fast(layouts.LLAMA_3)
    tokens.chat_template = template
    found = templates.template_end(tokens)
    assert (found and tokens.convert_ids_to_tokens(found)) == wanted
