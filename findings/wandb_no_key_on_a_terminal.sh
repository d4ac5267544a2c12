#!/usr/bin/env bash
# Without a key wandb.init ends in ways that `except Exception` does not see, if there is a terminal.
# Guess: a program that has no key, and nobody who answers, gets an error of wandb's own, with a
# terminal and without.
# What happens: without a terminal it is wandb's UsageError. With a terminal whose input is at its end
# (a job started from tmux or screen, input from /dev/null) it prints a menu and raises Python's
# KeyboardInterrupt, which is no Exception. wandb.login(prompt=False) is False in both, and asks nothing.
# Version: wandb 0.31.0.
# Why it matters: a training program that logs a copy, and passes over a tracker that fails, dies of it
# as if somebody had pressed Control-C; with a live terminal it waits for an answer before the first step.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q wandb==0.31.0
cd "$work"
export HOME=$work NETRC=$work/none
unset WANDB_API_KEY WANDB_MODE
cat > begin.py <<'PY'
import wandb

try:
    print("login", wandb.login(prompt=False))
    wandb.init(project="p", dir=".", settings=wandb.Settings(console="off"))
except BaseException as error:
    print("raised", type(error).__name__, isinstance(error, Exception))
PY
plain=$("$work/venv/bin/python" begin.py < /dev/null 2> /dev/null)
terminal=$(script -qec "$work/venv/bin/python begin.py" /dev/null < /dev/null | tr -d '\r' | grep -E '^(login|raised)')
printf 'without a terminal: %s\nwith one: %s\n' "${plain//$'\n'/; }" "${terminal//$'\n'/; }"
test "$plain" = $'login False\nraised UsageError True'
test "$terminal" = $'login False\nraised KeyboardInterrupt False'
