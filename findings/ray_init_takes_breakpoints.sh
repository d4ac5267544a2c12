#!/usr/bin/env bash
# After ray.init and ray.shutdown, breakpoint() in programs that the driver starts is passed over.
# Guess: ray.init configures Ray's own processes; a program of another environment that the driver
# starts later, once Ray is shut down, stops at its breakpoints as always.
# What happens: ray.init sets PYTHONBREAKPOINT in the driver's own environment and shutdown leaves it
# there. Each program that inherits it and cannot import Ray warns and runs through its breakpoint().
# Version: ray 2.60.0.
# Why it matters: a driver that starts trainers or servers in environments of their own takes their
# debugger from them, and a program that compares environments finds two that differ.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
python3 -m venv "$work/other"
"$work/venv/bin/pip" install -q ray==2.60.0
cd "$work"
unset PYTHONBREAKPOINT
cat > stops.py <<'PY'
breakpoint()
print("after")
PY
cat > drive.py <<'PY'
import os
import subprocess
import sys

import ray

other = sys.argv[1]


def run():
    done = subprocess.run(
        [other, "stops.py"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return done.returncode, "Ignoring unimportable $PYTHONBREAKPOINT" in done.stderr


print("before init", os.environ.get("PYTHONBREAKPOINT"), *run())
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
ray.shutdown()
print("after shutdown", os.environ.get("PYTHONBREAKPOINT"), *run())
PY
RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" drive.py "$work/other/bin/python" 2> /dev/null | tee said
# without it the debugger meets the end of its input, and the program ends with status 1
test "$(cat said)" = $'before init None 1 False\nafter shutdown ray.util.rpdb._driver_set_trace 0 True'
