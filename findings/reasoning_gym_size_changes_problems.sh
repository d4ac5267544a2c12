#!/usr/bin/env bash
# The size of a pool decides which problems stand at its beginning.
# Guess: the first five problems of a dataset of reasoning-gym are the same in a pool of 5 and of 50,
# as each is drawn from the seed and its index.
# What happens: for chain_sum they are. For acre all five differ.
# Version: reasoning-gym 0.1.25.
# Why it matters: whoever asks for more problems of the same seed gets other ones in the old places,
# so a held-out slice of the smaller pool may be trained on in the larger.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q reasoning-gym==0.1.25
"$work/venv/bin/python" - <<'PY'
import reasoning_gym


def questions(name, size):
    dataset = reasoning_gym.create_dataset(name, seed=1, size=size)
    return [dataset[i]["question"] for i in range(5)]


for name in ("chain_sum", "acre"):
    small, again, large = questions(name, 5), questions(name, 5), questions(name, 50)
    assert small == again
    same = [a == b for a, b in zip(small, large)]
    print(name, "first five problems of 5 and of 50 are equal:", same)
    assert same == [name == "chain_sum"] * 5
PY
