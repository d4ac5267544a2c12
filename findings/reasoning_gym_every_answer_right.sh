#!/usr/bin/env bash
# A scorer of reasoning-gym that calls every answer right.
# Guess: score_answer of a dataset of True and False gives 1.0 for the right word and less otherwise.
# What happens: game_of_life_halting gives 1.0 for True, for False and for a word that is neither.
# Version: reasoning-gym 0.1.25.
# Why it matters: as a reward it is constant, so group-relative advantages are 0 and nothing is
# learned; as a test every student is perfect.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q reasoning-gym==0.1.25
"$work/venv/bin/python" - <<'PY'
import reasoning_gym

dataset = reasoning_gym.create_dataset("game_of_life_halting", seed=1, size=20)
found = {
    said: {dataset.score_answer(said, entry) for entry in dataset}
    for said in ("True", "False", "perhaps")
}
print("golds", sorted({entry["answer"] for entry in dataset}))
print("scores", found)
assert set.union(*found.values()) == {1.0}
PY
