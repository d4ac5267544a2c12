"""`dvc exp show` in a width that can be read: its columns chosen, everything else dropped.

DVC prints a column for each metric, each key of params.yaml and each dep of each stage. What each
revision holds is asked of it once as JSON; then it prints what was chosen.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.config.yaml_edit import flat
from pipeline.core.errors import UserError
from pipeline.runner.dag import plan_files

PARAMS = "params.yaml"
FIXED = ("Experiment", "rev", "typ", "Created", "parent", "State", "Executor")
MOST = 39  # columns
FIRST = "accuracy"  # of an arm's metrics; `--keep` of DVC shows others beside it
REPORT = "data/report/"
Values = dict[str, dict[str, Any]]  # by file: names with dots and what they are


def show(flags: list[str]) -> int:
    """Print the table; `flags` go to `dvc exp show`. Returns its status; raises UserError."""
    if "--json" in flags or "-h" in flags or "--help" in flags:
        return _dvc(*flags).returncode
    done = _dvc(*flags, "--json", capture=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        return done.returncode
    try:
        rows = list(revisions(json.loads(done.stdout)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"`dvc exp show --json`: found another form than this version of DVC has ({error!r}), "
            "wanted revisions with metrics and params. Run `dvc exp show` itself."
        ) from error
    kept, left = chosen(rows)
    if left:
        sys.stderr.write(
            f"{left} more params and metrics differ than {MOST} columns hold: `dvc exp show` and "
            "`dvc exp diff` show them all\n"
        )
    return _dvc(*flags, "--drop", dropping(kept)).returncode


def revisions(found: list[dict[str, Any]]) -> Iterator[tuple[Values, Values]]:
    """Metrics and params of each row of what `dvc exp show --json` prints."""
    for state in found:
        inner = [one for many in state["experiments"] or () for one in many["revs"] or ()]
        for one in (state, *inner):
            if data := one["data"]:
                yield _values(data["metrics"]), _values(data["params"])


def chosen(rows: list[tuple[Values, Values]]) -> tuple[list[tuple[str, str]], int]:
    """File and name of each metric and param that is shown, and how many do not fit.

    First each arm's accuracy and metrics of files that are not the report's, then the keys of
    params.yaml that differ between rows, those of `arms` last.
    """
    metrics = dict.fromkeys((path, name) for own, _ in rows for path in own for name in own[path])
    first = [one for one in metrics if one[1] == FIRST or not one[0].startswith(REPORT)]
    params = sorted(differing([own.get(PARAMS, {}) for _, own in rows]), key=_of_arms)
    wanted = [*first, *((PARAMS, name) for name in params)]
    kept = wanted[: MOST - len(FIXED)]
    return kept, len(wanted) - len(kept)


def differing(rows: list[dict[str, Any]]) -> list[str]:
    """Keys of which not every row has the same value."""
    keys = dict.fromkeys(key for row in rows for key in row)
    texts = ({json.dumps(row.get(key)) for row in rows} for key in keys)
    return [key for key, own in zip(keys, texts, strict=True) if len(own) > 1]


def dropping(kept: Iterable[tuple[str, str]]) -> str:
    """The pattern of every column but those kept: DVC has the file before a name that two have."""
    names = [f"(?:{re.escape(path)}:)?{re.escape(name)}" for path, name in kept]
    return f"(?!(?:{'|'.join([*FIXED, *names])})$)"


def _of_arms(name: str) -> bool:
    return name.startswith("arms.")


def _values(files: dict[str, Any] | None) -> Values:
    found = {path: file.get("data") for path, file in (files or {}).items()}
    return {
        path: dict(flat(data)) if isinstance(data, dict) else {} for path, data in found.items()
    }


def _dvc(*flags: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    command = plan_files.dvc("exp", "show", *flags)
    return subprocess.run(
        command, env=plan_files.environment(), capture_output=capture, encoding="utf-8", check=False
    )
