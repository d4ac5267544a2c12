#!/usr/bin/env bash
# AutoTokenizer loses all spaces of a tokenizer whose config names the Llama class.
# Guess: where a folder has a tokenizer.json, that file decides what text becomes; the class that
# tokenizer_config.json names is of no account.
# What happens: for tokenizer_class LlamaTokenizer or LlamaTokenizerFast, AutoTokenizer takes the
# vocabulary alone from tokenizer.json and builds Llama's own pipeline round it. With a byte-level
# vocabulary all spaces and line ends vanish, without an error or a warning. PreTrainedTokenizerFast on the same
# folder is right, and so is AutoTokenizer once the class is taken out of the config or in 4.57.1.
# Version: transformers 5.19.0, tokenizers 0.23.3 (right in transformers 4.57.1, tokenizers 0.22.2).
# Why it matters: some published distilled models have just these two files. Prompts and rollouts of
# the student lose their spaces, and training on them still runs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.19.0 tokenizers==0.23.3
python3 -m venv "$work/old"
"$work/old/bin/pip" install -q transformers==4.57.1 tokenizers==0.22.2
cd "$work"
export HF_HUB_OFFLINE=1
venv/bin/python - 2>log <<'PY' || { tail -n 20 log; exit 1; }
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
made = Tokenizer(models.BPE({"<s>": 0, "</s>": 1} | {c: 2 + i for i, c in enumerate(alphabet)}, []))
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
made.decoder = decoders.ByteLevel()
for name, config in {"named": {"tokenizer_class": "LlamaTokenizerFast"}, "unnamed": {}}.items():
    Path(name).mkdir()
    made.save(f"{name}/tokenizer.json")
    config = {"bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": False, **config}
    Path(name, "tokenizer_config.json").write_text(json.dumps(config))
    # what kind of model it is, as in any folder of one
    Path(name, "config.json").write_text(json.dumps({"model_type": "llama"}))
PY
cat >tell.py <<'PY'
import sys

import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

text = "two and two\nmake four"
wanted = Tokenizer.from_file("named/tokenizer.json").encode(text).ids
print("transformers", transformers.__version__)
right = []
for cls, name in ((AutoTokenizer, "named"), (PreTrainedTokenizerFast, "named"), (AutoTokenizer, "unnamed")):
    tokenizer = cls.from_pretrained(name)
    ids = tokenizer.encode(text, add_special_tokens=False)
    right.append(ids == wanted)
    print(f"{cls.__name__} of {name}: {type(tokenizer).__name__}, {tokenizer.decode(ids)!r}, ids right {right[-1]}")
assert str(right) == sys.argv[1], right
PY
venv/bin/python tell.py "[False, True, True]" 2>log || { tail -n 20 log; exit 1; }
old/bin/python tell.py "[True, True, True]" 2>log || { tail -n 20 log; exit 1; }
