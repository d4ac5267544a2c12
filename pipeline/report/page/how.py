"""How it was run: the first arm's settings, what the others change, and what their rounds did."""

from typing import Any

from pipeline.report.page.blocks import Block, Pairs, Row, Section

HIDDEN = {"prepare.seed"}


def section(settings: dict[str, Row], runs: dict[str, str]) -> Section | None:
    """settings  of each arm, by block; runs  a sentence an arm about its optimizer and teacher."""
    if not settings:
        return None
    flat = {arm: _flat(found) for arm, found in settings.items()}
    first, *others = flat
    pairs = [(key, _text(value)) for key, value in flat[first].items() if key not in HIDDEN]
    blocks: list[Block] = [Pairs("All settings", pairs, first, runs.get(first, ""), closed=True)]
    for arm in others:
        changed = [
            (key, _text(value))
            for key, value in flat[arm].items()
            if flat[first].get(key) != value and key not in HIDDEN
        ]
        blocks.append(Pairs(f"Differs from {first}", changed, arm, runs.get(arm, "")))
    lead = (
        f"Every number of the method. {first} is given in full, other arms by what they change. "
        "Settings of steps that an arm does not have are listed too; they do nothing there."
    )
    return Section("how", "How", blocks, lead)


def run_sentence(rounds: int, run: Row, failure_rate: float | None, tokens: int) -> str:
    """A sentence on an arm's last training cell."""
    steps = run["steps_per_round"]
    paper = "; the paper's algorithm takes one" if steps > 1 else ", as in the paper"
    failed = "" if failure_rate is None else f", {failure_rate:.2%} of the teacher's draws failed"
    return (
        f"{rounds} rounds of {steps} optimizer steps{paper}. Clipped steps "
        f"{run['clipped_share']:.0%}, {tokens:,} teacher tokens used{failed}."
    )


def _flat(blocks: Row, before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in blocks.items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def title(student: dict[str, str], settings: dict[str, Row]) -> str:
    """The heading: student, teacher and task of the first arm."""
    if not settings:
        return "OmniOPD experiment"
    first = next(iter(settings.values()))
    asked = _text(first["teach"]["teacher"])
    return f"{student['name']} taught by {asked}: {_task(first['prepare'])}"


def facts(
    student: dict[str, str],
    teachers: dict[str, str],
    settings: dict[str, Row],
    rounds: int,
    made: dict[str, str],
) -> list[tuple[str, str]]:
    """Name and value of what is known of the experiment, for the line below the heading.

    `made` has what else is known of how it was made. No date and no commit: equal cells make an
    equal page, whenever and from whichever commit it is made.
    """
    if not settings:
        return []
    first = next(iter(settings.values()))
    found = [("student", f"{student['name']} ({student['from']})")]
    asked = [f"{name} ({what})" for name, what in teachers.items()]
    found.append(("teacher" if len(asked) == 1 else "teachers", "; ".join(asked)))
    found += [("task", _task(first["prepare"])), ("rounds", str(rounds))]
    return found + list(made.items())


def _task(prepare: dict[str, Any]) -> str:
    """The task's name, with what is drawn from where it draws from named sets."""
    sets = prepare.get("datasets") or []
    named = ", ".join(map(str, sets))
    return f"{prepare['task']} ({named})" if named and len(named) < 80 else str(prepare["task"])
