#!/usr/bin/env bash
# On a processor with AVX2 alone, bfloat16 costs the gradient of a linear layer's input far more
# than its output: the same number of operations, and many times the time.
# Guess: such a processor has no instructions for bfloat16, so torch takes a few times as long as in
# float32, for x @ W.T and for g @ W alike; all three products of a layer are equally many operations.
# What happens: x @ W.T (the output) and g.T @ x (the weights' gradient) take several times as long
# as in float32, g @ W (the input's gradient) some tens of times. Both operands cast to float32,
# multiplied and cast back are faster than each of the three.
# Version: torch 2.13.0 on a CPU. oneDNN and torch are told to use AVX2 at most, so that a newer
# processor shows it as well.
# Why it matters: a bfloat16 checkpoint generates at a bearable speed on such a machine, and its
# training, which is planned from that speed, then takes ten times the time.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 numpy
cd "$work"
cat > products.py <<'PY'
import time

import torch

torch.set_num_threads(2)
torch.manual_seed(0)
x, g, w = (torch.randn(*shape) for shape in [(600, 576), (600, 1536), (1536, 576)])


def seconds(product):
    product()
    took = []
    for _ in range(3):
        start = time.perf_counter()
        product()
        took.append(time.perf_counter() - start)
    return min(took)


def products(x, g, w):
    return {"output": lambda: x @ w.T, "input's gradient": lambda: g @ w, "weights' gradient": lambda: g.T @ x}


coarse = [t.bfloat16() for t in (x, g, w)]
full, half = products(x, g, w), products(*coarse)
ratio = {name: seconds(half[name]) / seconds(full[name]) for name in full}
slow = seconds(half["input's gradient"])
through = seconds(lambda: (coarse[1].float() @ coarse[2].float()).bfloat16())
print(torch.__version__, torch.backends.cpu.get_cpu_capability(), "bfloat16 products of oneDNN:",
      torch.ops.mkldnn._is_mkldnn_bf16_supported())
for name, times in ratio.items():
    print(f"{name}: bfloat16 takes {times:.1f} times as long as float32")
print(f"input's gradient by way of float32: {slow / through:.1f} times faster")
assert ratio["input's gradient"] > max(10, 1.5 * ratio["output"]), ratio
assert slow > 3 * through, (slow, through)
PY
ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 "$work/venv/bin/python" products.py
