#!/usr/bin/env bash
# One cut character turns the whole characters before it into question marks.
# Guess: a response that max_tokens cuts inside a character decodes to its text and one or two
# replacement characters at the end.
# What happens: the ByteFallback decoder, which SentencePiece-like tokenizer.json files use, decodes a
# run of byte tokens at once. If the run's end is cut, EVERY byte of the run becomes a replacement
# character, whole characters too. The ByteLevel decoder replaces the cut character alone.
# Version: tokenizers 0.23.3.
# Why it matters: texts in a script that the vocabulary lacks are one long run of bytes. A rollout cut
# at the length limit loses all of it, so its text no longer begins with the text of its own prefix.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tokenizers==0.23.3
cd "$work"
venv/bin/python - <<'PY'
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

vocab = {"<unk>": 0, "a": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
fallback = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
fallback.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
level = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
level.decoder = decoders.ByteLevel()

text = "a\u5317\u4eac\u5e02"  # "a" and three characters of three bytes each
print("tokenizers", tokenizers.__version__)
for tokenizer, name in ((fallback, "ByteFallback"), (level, "ByteLevel")):
    ids = tokenizer.encode(text).ids
    print(f"{name:12} whole {tokenizer.decode(ids)}  last id cut {tokenizer.decode(ids[:-1])}")
    assert tokenizer.decode(ids) == text and len(ids) == 10

cut = fallback.decode(fallback.encode(text).ids[:-1])
assert cut == "a" + "\ufffd" * 8, "two whole characters are lost with the cut one"
assert level.decode(level.encode(text).ids[:-1]) == "a\u5317\u4eac\ufffd"
PY
