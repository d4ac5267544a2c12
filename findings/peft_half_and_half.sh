#!/usr/bin/env bash
# Half of an adapter plus half of the same adapter is twice that adapter.
# Guess: add_weighted_adapter(..., weights=[0.5, 0.5], combination_type="linear") is the mean of two
# adapters, and of two equal ones that adapter itself.
# What happens: "linear", the default kind being "svd", sums the factors A and B apart, each scaled by
# the root of the weight, so that the product has cross terms: two equal adapters at 0.5 give 2.0
# times the adapter, and weights 1 and 1 of two adapters give no sum. "cat" gives what one expects.
# Version: peft 0.21.2, torch 2.13.0.
# Why it matters: students of several seeds or rounds are averaged as adapters. The merged one takes
# steps of the wrong size in other directions than the mean of the students.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q peft==0.21.2 transformers==5.19.0 torch==2.13.0 numpy==2.3.5
cd "$work"
export HF_HUB_OFFLINE=1
venv/bin/python - 2>log <<'PY' || { tail -n 20 log; exit 1; }
import peft
import torch
from peft import LoraConfig, get_peft_model

torch.manual_seed(0)
config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8)), config, adapter_name="one")
model.add_adapter("twin", config)
model.add_adapter("other", config)
layer = model.base_model.model[0]
with torch.no_grad():
    layer.lora_A["twin"].weight.copy_(layer.lora_A["one"].weight)
    layer.lora_B["twin"].weight.copy_(layer.lora_B["one"].weight)


def delta(name):
    return layer.get_delta_weight(name)


print("peft", peft.__version__)
for kind, wanted in (("linear", 2.0), ("cat", 1.0)):
    model.add_weighted_adapter(["one", "twin"], [0.5, 0.5], f"mean_{kind}", combination_type=kind)
    factor = (delta(f"mean_{kind}") / delta("one")).mean().item()
    print(f"{kind}: 0.5 of an adapter and 0.5 of its twin are {factor:.4f} times it")
    assert abs(factor - wanted) < 1e-3
    model.add_weighted_adapter(["one", "other"], [1.0, 1.0], f"sum_{kind}", combination_type=kind)
    away = (delta(f"sum_{kind}") - delta("one") - delta("other")).norm() / delta("one").norm()
    print(f"{kind}: 1 and 1 of two adapters differ from their sum by {away:.4f} of the first")
    assert (away > 0.1) == (kind == "linear")
PY
