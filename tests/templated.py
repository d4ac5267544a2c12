"""Chat templates in the layouts of public models, and tokenizers and tiny models that have them."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<think>", "</think>"]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = TURNS + HEADER
ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
)
PIRATE = "You are a pirate. Always answer in French."
# a student's ChatML, and five teachers that read otherwise
CASES = {
    "student": CHATML,
    "sys-teacher": "<s>{% if messages[0]['role']!='system' %}<|im_start|>system\n"
    + PIRATE
    + "<|im_end|>\n{% endif %}"
    + CHATML,
    "think-teacher": TURNS
    + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "nogen-teacher": TURNS,
    "dropsys-teacher": "<s>{% for m in messages %}{% if m['role']=='user' %}"
    "[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
    "lastonly-teacher": "<s>[INST] {{ messages[0]['content'] }} [/INST]",
}
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for m in loop_messages %}" + ALTERNATE + "{% if loop.index0 == 0 and system_message %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    + ALTERNATE
    + "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
PHI_3_FIRST = (  # drops system messages; the header stands there whatever is asked for
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '<|user|>\n' + m['content'] + '<|end|>\n<|assistant|>\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
)
_LLAMA_3 = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3 = "{{ bos_token }}" + _LLAMA_3
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024"
LLAMA_3_1 = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n" + DATES + "\n\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}"
    "{% set messages = messages[1:] %}{% endif %}<|eot_id|>" + _LLAMA_3
)
QWEN_2_5 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen, created by Alibaba "
    "Cloud. You are a helpful assistant.<|im_end|>\n{% endif %}" + CHATML
)
QWEN_3 = (  # thoughts of earlier turns are cut off; an empty think block where thinking is off
    "{% for m in messages %}{% set content = m['content'].split('</think>')[-1].lstrip('\n') %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<\uff5cUser\uff5c>' + m['content'] }}{% else %}"
    "{{ '<\uff5cAssistant\uff5c>' + m['content'].split('</think>')[-1]"
    " + '<\uff5cend\u2581of\u2581sentence\uff5c>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\n' }}{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}"
    "{% else %}{{ m['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
BELOW = "Below is an instruction that describes a task. Write a response that completes it."
ALPACA = (
    BELOW + "\n\n{% for m in messages %}{% if m['role'] == 'assistant' %}### Response:\n"
    "{% else %}### Instruction:\n{% endif %}{{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
OPENCHAT = (
    "{{ bos_token }}{% for m in messages %}{{ 'GPT4 Correct ' + m['role'].title() + ': ' "
    "+ m['content'] + '<|end_of_turn|>' }}{% endfor %}"
    "{% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] }}"
    "{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}"
    "{{ '<|message|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def tokenizer(template):
    """Byte level, with the special tokens of ChatML, Mistral and a think block."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    ends = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "</s>"}
    found = PreTrainedTokenizerFast(tokenizer_object=bare, **ends)
    found.chat_template = template
    return found


def checkpoint(folder, template):
    """A tiny Llama with such a tokenizer, untrained."""
    own = tokenizer(template)
    config = LlamaConfig(
        vocab_size=len(own),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        bos_token_id=own.bos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder
