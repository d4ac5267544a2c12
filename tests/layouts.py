"""Tiny models with random weights whose folders are laid out as those of public families.

What is kept of a family is what goes wrong in practice: which ids end a turn and where they are
written down, what the template puts around a turn, what tokenizer.json is, and how many rows the
head has. Templates are the families' own, shortened.
"""

# DeepSeek's marks have a wide bar on purpose
# ruff: noqa: RUF001

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The carriage was carried over the hill, and the carrier carries 12 + 345 = 357 letters.",
    "def f(x):\n    return x  # Zeilen mit Ümlauten: schön, größer, Straße",
    "你好,世界。今天天气很好。 \U0001f642\U0001f680 Привет, мир!",
    "Say hello. What is the sum? One, two, three. Answer: 12.",
]
# a few of these characters stand in no text above, so that their bytes are tokens of their own
ASKED = ("What is 12 + 345?", "Say 你好 and schön.", "One more: \U0001f984?", "carry on")
OFTEN = 12  # tokens after which a turn ends, by order of magnitude
RARE, SURE = -2.0, 9.0  # what is added to logits
WRITERS = ("o_proj.weight", "down_proj.weight")  # of a layer, into the stream
HALF = re.compile("<0x[0189A-F].>")


@dataclass(frozen=True)
class Layout:
    """A family, and what its folder says."""

    name: str
    tokenizer: Callable[[tuple[str, ...]], Tokenizer]
    special: tuple[str, ...]
    template: str
    eos: str  # tokenizer_config's eos_token
    ends: tuple[str, ...]  # what ends a turn, the one that the template writes first
    listed: tuple[str, ...]  # generation_config's eos_token_id
    bos: str | None = None
    pad: str | None = None
    padding: int = 0  # rows of the head that stand for no token
    plain: tuple[str, ...] = ()  # added tokens that are not special
    rstrip: bool = False  # control tokens take the blanks behind them
    class_: str | None = None  # tokenizer_class of tokenizer_config.json
    model: str = "Llama"
    config: dict[str, Any] = field(default_factory=dict)


# what Llama 3 and Qwen split text by: the two differ in digits
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(special: tuple[str, ...]) -> Tokenizer:
    """As Llama 3 has it: a character that no merge makes is several tokens."""
    return _bytes(special, LLAMA3_SPLIT, None)


def qwen(special: tuple[str, ...]) -> Tokenizer:
    """The same as Qwen has it: digits are alone, and characters are composed (NFC)."""
    return _bytes(special, QWEN_SPLIT, normalizers.NFC())


def _bytes(special: tuple[str, ...], regex: str, normalizer: Any) -> Tokenizer:
    found = Tokenizer(models.BPE())
    if normalizer is not None:
        found.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(regex), "isolated")
    raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found.pre_tokenizer = pre_tokenizers.Sequence([split, raw])
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(TEXT * 3, trainer)
    return found


def prefixed(special: tuple[str, ...]) -> Tokenizer:
    """SentencePiece's BPE as Llama 2 and Mistral have it: a space before a text, byte fallback."""
    return _pieces(special, prefix=True)


def unprefixed(special: tuple[str, ...]) -> Tokenizer:
    """The same as Gemma has it, without that space."""
    return _pieces(special, prefix=False)


def _pieces(special: tuple[str, ...], prefix: bool) -> Tokenizer:
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = "▁" + "".join(map(chr, range(33, 127))) + ("" if prefix else "\n")
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*words, *letters]))}
    merges = [("▁", "c"), ("a", "r"), ("▁c", "ar"), ("r", "i"), ("e", "d"), ("▁", "t"), ("h", "e")]
    merges += [("▁t", "he"), ("i", "ed"), ("▁", "▁"), ("o", "n"), ("i", "s"), ("1", "2")]
    for one, two in merges:
        vocabulary.setdefault(one + two, len(vocabulary))
    model = models.BPE(
        vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    found = Tokenizer(model)
    spaces: Any = normalizers.Replace(" ", "▁")
    found.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    )
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    found.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)
    return found


LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] "
    "+ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)

LLAMA_3 = Layout(
    "llama3",
    byte_level,
    (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"),
        *("<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    LLAMA3,
    eos="<|eot_id|>",
    ends=("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"),
    listed=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    bos="<|begin_of_text|>",
)
GEMMA_3 = Layout(
    "gemma",
    unprefixed,
    ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    GEMMA,
    eos="<eos>",
    ends=("<end_of_turn>", "<eos>"),
    listed=("<eos>", "<end_of_turn>"),
    bos="<bos>",
    pad="<pad>",
    model="Gemma3Text",
    config={"head_dim": 32, "query_pre_attn_scalar": 32, "layer_types": ["full_attention"]},
)
QWEN_3 = Layout(
    "qwen3",
    qwen,
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    QWEN3,
    eos="<|im_end|>",
    ends=("<|im_end|>", "<|endoftext|>"),
    listed=("<|im_end|>", "<|endoftext|>"),
    pad="<|endoftext|>",
    plain=("<think>", "</think>"),
    padding=20,
    model="Qwen3",
    config={"head_dim": 32},
)
PHI_3 = Layout(
    "phi3",
    prefixed,
    ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
    PHI3,
    eos="<|endoftext|>",
    ends=("<|end|>", "<|endoftext|>", "<|assistant|>"),
    listed=("<|endoftext|>", "<|assistant|>", "<|end|>"),
    bos="<s>",
    pad="<|endoftext|>",
    model="Phi3",
    rstrip=True,
)
MISTRAL_7 = Layout(
    "mistral",
    prefixed,
    ("<unk>", "<s>", "</s>"),
    MISTRAL,
    eos="</s>",
    ends=("</s>",),
    listed=("</s>",),
    bos="<s>",
    class_="LlamaTokenizer",
    model="Mistral",
)
DISTILL = Layout(
    "distill-llama",
    byte_level,
    ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    DEEPSEEK,
    eos="<｜end▁of▁sentence｜>",
    ends=("<｜end▁of▁sentence｜>",),
    listed=("<｜end▁of▁sentence｜>",),
    bos="<｜begin▁of▁sentence｜>",
    pad="<｜end▁of▁sentence｜>",
    class_="LlamaTokenizerFast",
)
DISTILL_QWEN = replace(DISTILL, name="distill-qwen", tokenizer=qwen, model="Qwen2")
LAYOUTS = {x.name: x for x in (LLAMA_3, GEMMA_3, QWEN_3, PHI_3, MISTRAL_7, DISTILL, DISTILL_QWEN)}


def fast(layout: Layout) -> PreTrainedTokenizerFast:
    """The layout's tokenizer as transformers has it."""
    backend = layout.tokenizer(layout.special)
    backend.add_special_tokens(
        [
            AddedToken(x, special=True, normalized=False, rstrip=layout.rstrip and x[:2] == "<|")
            for x in layout.special
        ]
    )
    backend.add_tokens([AddedToken(x, special=False, normalized=False) for x in layout.plain])
    named = {"bos_token": layout.bos, "eos_token": layout.eos, "pad_token": layout.pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=layout.template,
        **{name: token for name, token in named.items() if token},
    )


def folder(layout: Layout, path: Path, context: int = 256, seed: int = 0) -> Path:
    """What would be downloaded of the family, with random weights in which ends are likely."""
    tokens = fast(layout)
    vocabulary = tokens.get_vocab()
    torch.manual_seed(seed)
    config = getattr(transformers, f"{layout.model}Config")(
        vocab_size=len(tokens) + layout.padding,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        initializer_range=0.2,
        eos_token_id=vocabulary[layout.eos],
        bos_token_id=vocabulary.get(layout.bos or ""),
        pad_token_id=vocabulary.get(layout.pad or ""),
        **layout.config,
    )
    model = getattr(transformers, f"{layout.model.removesuffix('Text')}ForCausalLM")(config)
    favour(model, tokens, [vocabulary[x] for x in layout.ends])
    model.save_pretrained(path)
    tokens.save_pretrained(path)
    listed = [vocabulary[x] for x in layout.listed]
    generation = {"eos_token_id": listed if len(listed) > 1 else listed[0], "do_sample": True}
    (path / "generation_config.json").write_text(json.dumps(generation | {"top_k": 1}))
    if layout.class_:
        edit(path / "tokenizer_config.json", tokenizer_class=layout.class_)
    return path


def favour(model: Any, tokens: Any, ends: list[int]) -> None:
    """Make each end happen, bytes of no whole character rare, and the rows of the head that stand
    for no token likelier than anything else, by a number in the stream that nothing changes."""
    vocabulary = tokens.get_vocab()
    rows = model.get_output_embeddings().weight.shape[0]
    bias_V = torch.zeros(rows)
    half = [i for x, i in vocabulary.items() if "\ufffd" in tokens.decode([i]) or HALF.fullmatch(x)]
    bias_V[half] = RARE
    bias_V[ends] = math.log(len(vocabulary) / OFTEN / len(ends))
    bias_V[len(vocabulary) :] = SURE
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 1.0
        for name, weight in model.named_parameters():
            if name.endswith(WRITERS):
                weight[0] = 0.0
        head = model.get_output_embeddings().weight
        seen = model.base_model(torch.arange(len(vocabulary))[None, :64]).last_hidden_state
        head[bias_V != 0] = 0.0  # they depend on nothing else
        head[:, 0] = bias_V / seen[0, :, 0].mean()


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
