"""A character-level tokenizer and a small Llama for the embedded demo."""

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.config.models import LLAMA_CONTEXT, LlamaInit

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"."), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def llama(init: LlamaInit, tokens: Any, max_positions: int = LLAMA_CONTEXT) -> LlamaForCausalLM:
    """Random weights; the caller seeds torch's generator."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=init.hidden,
            num_hidden_layers=init.layers,
            num_attention_heads=init.heads,
            num_key_value_heads=init.heads,
            intermediate_size=init.mlp,
            max_position_embeddings=max_positions,
            tie_word_embeddings=True,
            pad_token_id=tokens.pad_token_id,
            eos_token_id=tokens.eos_token_id,
            bos_token_id=None,
        )
    )
