#!/usr/bin/env bash
# Calling a tokenizer changes what save_pretrained writes.
# Guess: tokenizer(text, truncation=True, max_length=3) cuts that text and leaves no trace.
# What happens: the cut stays in the tokenizer and save_pretrained writes it into tokenizer.json. The
# tokenizers library then cuts EVERY text to three tokens, and pads if the call padded. transformers
# itself ignores both on the same file, so there it looks right.
# Version: transformers 5.19.0, tokenizers 0.23.3.
# Why it matters: a training script truncates its examples and saves the tokenizer beside the
# checkpoint; servers and embedders in Rust or Python that read tokenizer.json with the tokenizers
# library then see the first tokens of each prompt alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.19.0 tokenizers==0.23.3
cd "$work"
export HF_HUB_OFFLINE=1
venv/bin/python - 2>log <<'PY' || { tail -n 20 log; exit 1; }
import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = ["<pad>", "one", "two", "three", "four", "five"]
made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<pad>"))
made.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")
text = "one two three four five"
print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
found = {}
for name, settings in {"before": None, "after": {"truncation": True, "max_length": 3}}.items():
    if settings:
        print("the call", tokenizer(text, **settings)["input_ids"])
    tokenizer.save_pretrained(name)
    by_tokenizers = Tokenizer.from_file(f"{name}/tokenizer.json").encode(text).ids
    found[name] = by_tokenizers, AutoTokenizer.from_pretrained(name).encode(text)
    print(f"saved {name} it: tokenizers {by_tokenizers}, transformers {found[name][1]}")
whole = [1, 2, 3, 4, 5]
assert found == {"before": (whole, whole), "after": ([1, 2, 3], whole)}
PY
