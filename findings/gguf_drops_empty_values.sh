#!/usr/bin/env bash
# GGUFWriter leaves a key out if its value is empty, and flattens a list of lists.
# Guess: an empty text or list is stored as such, or refused; a list of lists reads as one.
# What happens: add_string with "" and add_array with [] write nothing, without a word, so a reader
# falls back on its own default. A list of lists is written in full, and gguf's own reader gives one
# flat list for it, so that [[1, 2], [3]] and [[1], [2, 3]] read alike.
# Version: gguf 0.19.0.
# Why it matters: "" is how one says "no chat template" or "no suffix"; in the file it means "not
# stated", and servers then apply a template of their own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q gguf==0.19.0 numpy==2.3.5
cd "$work"
venv/bin/python - <<'PY'
from importlib.metadata import version

from gguf import GGUFReader, GGUFWriter

writer = GGUFWriter("model.gguf", "llama")
writer.add_string("tokenizer.chat_template", "")
writer.add_string("general.name", "student")
writer.add_array("stop.none", [])
writer.add_array("stop.one", ["end"])
writer.add_array("groups.a", [[1, 2], [3]])
writer.add_array("groups.b", [[1], [2, 3]])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
fields = GGUFReader("model.gguf").fields
read = {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
print("gguf", version("gguf"))
for key, value in read.items():
    print(f"{key} = {value!r}")
assert read == {
    "general.architecture": "llama",
    "general.name": "student",
    "stop.one": ["end"],
    "groups.a": [1, 2, 3],
    "groups.b": [1, 2, 3],
}
PY
