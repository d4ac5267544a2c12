#!/usr/bin/env bash
# safetensors.numpy.save_file writes a transposed array in the wrong order.
# Guess: a transposed array is written as it reads, or refused, as safetensors.torch refuses one.
# What happens: the file gets the shape of the transposed array and the numbers in the order of the
# original memory, so loading gives another matrix of the right shape. No error, no warning.
# Version: safetensors 0.8.0, numpy 2.3.5 (safetensors 0.7.0 wrote the right numbers; known upstream
# as issue 825).
# Why it matters: who exports weights to or from a framework that stores the other layout writes
# `W.T`; the checkpoint then loads with every shape right and every projection wrong.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.3.5
cd "$work"
venv/bin/python - <<'PY'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

weight = np.arange(6, dtype=np.float32).reshape(2, 3)
save_file({"plain": weight, "turned": weight.T, "copied": np.ascontiguousarray(weight.T)}, "w.safetensors")
found = load_file("w.safetensors")
print("safetensors", safetensors.__version__)
print("wanted      ", weight.T.tolist())
print("weight.T    ", found["turned"].tolist())
print("copied first", found["copied"].tolist())
assert found["plain"].tolist() == weight.tolist()
assert found["copied"].tolist() == weight.T.tolist()
assert found["turned"].shape == (3, 2)
assert found["turned"].tolist() == [[0, 1], [2, 3], [4, 5]]
PY
