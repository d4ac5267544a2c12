#!/usr/bin/env bash
# A tokenizer that transformers 5 saves cannot be loaded by transformers 4.
# Guess: a PreTrainedTokenizerFast saved by version 5 loads in version 4, as tokenizer.json has not
# changed and both versions have a class of that name.
# What happens: version 5 writes the class name "TokenizersBackend", for which version 4 raises. With
# "PreTrainedTokenizerFast" in its place the same files load in both and give the same ids.
# Version: transformers 5.19.0 writes, transformers 4.57.1 reads.
# Why it matters: a student that was trained with version 5 is served, evaluated or merged by tools
# that still pin version 4.
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
import shutil
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

made = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "four": 2}, unk_token="<unk>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")
tokenizer.save_pretrained("saved")
shutil.copytree("saved", "renamed")
config = json.loads(Path("saved/tokenizer_config.json").read_text())
print("transformers", transformers.__version__, "saves", type(tokenizer).__name__, "as", config["tokenizer_class"])
assert config["tokenizer_class"] == "TokenizersBackend"
renamed = json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"})
Path("renamed/tokenizer_config.json").write_text(renamed)
for name in ("saved", "renamed"):
    assert AutoTokenizer.from_pretrained(name).encode("four") == [2]
PY
old/bin/python - 2>log <<'PY' || { tail -n 20 log; exit 1; }
import transformers
from transformers import AutoTokenizer

print("transformers", transformers.__version__, "renamed:", AutoTokenizer.from_pretrained("renamed").encode("four"))
assert AutoTokenizer.from_pretrained("renamed").encode("four") == [2]
try:
    AutoTokenizer.from_pretrained("saved")
except ValueError as error:
    print("transformers", transformers.__version__, "saved:", error)
    assert "TokenizersBackend" in str(error)
else:
    raise AssertionError("version 4 loads what version 5 saves")
PY
