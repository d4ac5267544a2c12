"""How it was run: the first arm's settings, what the others change, and what their rounds did."""

from typing import Any

from pipeline.report.page.blocks import Block, Pairs, Row, Section, Text

HIDDEN = {"prepare.seed"}


def section(settings: dict[str, Row], runs: dict[str, str], notes: list[str]) -> Section | None:
    """settings  of each arm, by block; runs  a sentence an arm about its optimizer and teacher."""
    if not settings:
        return None
    flat = {arm: _flat(found) for arm, found in settings.items()}
    first, *others = flat
    pairs = [(key, _text(value)) for key, value in flat[first].items() if key not in HIDDEN]
    blocks: list[Block] = [Text(note) for note in notes]
    blocks.append(Pairs("All settings", pairs, first, runs.get(first, ""), closed=True))
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
