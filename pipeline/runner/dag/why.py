"""Cells of the plan that DVC would rerun, and what of their code, inputs or params changed."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.code_digest import history, locks, variants
from pipeline.code_digest.code import CALLS, FILE, LIBRARY
from pipeline.core import dvc_objects
from pipeline.core.errors import UserError
from pipeline.plan import expand

MOST = 6  # changes that a line of `omniopd plan` names
Stages = Mapping[str, Any]  # of dvc.lock, by name


@dataclass(frozen=True)
class Stale:
    """A cell that DVC would run, though it ran before."""

    cell: str
    variant: str
    ran_with: str  # md5 of its lock then
    code: bool | None  # whether that is another now; None: it ran without one, on files of code
    inputs: tuple[str, ...] = ()  # paths that are other than they were


def stale(found: dict[str, Any], stages: Stages) -> dict[str, Stale]:
    """The cells of a plan that ran and whose code or inputs are other now, by name, in order.

    Those that only read a stale cell are not among them: what it writes may be what it was.
    """
    outs = _outs(stages)
    known = {name: history.md5(text) for name, text in _now(found).items()}
    result = {}
    for name in expand.upstream(found):
        group, _, key = name.partition("@")
        if name not in stages:
            continue
        variant = variants.of(group, found["cells"][group][key]).name
        ran = history.dependency(stages[name])
        others = tuple(
            dep["path"]
            for dep in stages[name].get("deps", ())
            if outs.get(dep["path"], dep.get("md5")) != dep.get("md5")
        )
        if ran != (variant, known[variant]) or others:
            other = None if ran is None else ran != (variant, known[variant])
            result[name] = Stale(name, variant, ran[1] if ran else "", other, others)
    return result


def _outs(stages: Stages) -> dict[str, str]:
    """MD5 of every out, and of every file in one that is a folder, by path."""
    cache, found = dvc_objects.cache(), dict[str, str]()
    for out in (out for one in stages.values() for out in one.get("outs", ())):
        found[out["path"]] = out["md5"]
        inside = (
            dvc_objects.listing(cache, out["md5"])
            if out["md5"].endswith(dvc_objects.FOLDER)
            else None
        )
        found |= {f"{out['path']}/{name}": md5 for name, md5 in (inside or {}).items()}
    return found


def _now(found: dict[str, Any]) -> dict[str, str]:
    """The locks that the code of this process has, by variant; those on disk may be older."""
    return locks.texts(variants.of_plan(found).values())


def lines(found: dict[str, Any], stages: Stages, bill: Callable[[set[str]], str]) -> list[str]:
    """For `omniopd plan`: which cells DVC reruns because of code, and why. Empty for none.

    `bill`: what these cells would buy, in words.
    """
    waiting = stale(found, stages)
    reads = expand.upstream(found)
    unnamed = [x for x in waiting.values() if x.code is None]
    told = [_of_files(len(unnamed))] if unnamed else []
    by_variant = defaultdict[tuple[str, str], list[str]](list)
    for one in waiting.values():
        if one.code:
            by_variant[one.variant, one.ran_with].append(one.cell)
    for (variant, ran), names in sorted(by_variant.items()):
        changed = code(found, variant, ran)
        more = f" and {len(changed) - MOST} more" if len(changed) > MOST else ""
        cells = f"{len(names)} {'cell reruns' if len(names) == 1 else 'cells rerun'}"
        told.append(f"{variant}: {cells}, for code: {'; '.join(changed[:MOST])}{more}")
    if by_variant:
        first = {name for names in by_variant.values() for name in names}
        after = len(_following(reads, first) - first)
        told.append(
            f"{after} more that read them run if what they read is other then. `omniopd "
            "verify-code` runs one of each variant in scratch and accepts the others where its "
            "bytes are equal."
        )
    again = {x.cell for x in waiting.values() if x.code is not False}
    if again and (bought := bill(_following(reads, again))):
        told.append(bought)
    return told


def _of_files(count: int) -> str:
    return (
        f"{count} cells ran when each file of code was a dependency. Now a cell depends on "
        "code/VARIANT.lock, which says what its code does, so `dvc repro` would rerun them. "
        "Run `omniopd verify-code` first: it runs one of each variant in scratch and accepts the "
        "others where its bytes are equal. Nothing is bought."
    )


def _following(reads: Mapping[str, set[str]], names: set[str]) -> set[str]:
    found = set(names)
    for name, read in reads.items():  # in dependency order
        if read & found:
            found.add(name)
    return found


def code(found: dict[str, Any], variant: str, ran: str) -> list[str]:
    """The changes in a variant's code since its lock had this md5, in words."""
    old = history.text(variant, ran)
    if old is None:
        where = f"{locks.path(variant)} of that time is neither in {history.KEPT} nor in git"
        return [f"what it was cannot be told, as {where}"]
    made = locks.codes([variants.of_plan(found)[variant]])[variant]
    return differences(old, locks.HEADER + made.text(), dict(made.places))


def differences(old: str, new: str, places: Mapping[str, str]) -> list[str]:
    """Between two locks. `places`: the path that a line of the new one comes from."""
    before, after = (Counter(x for x in t.splitlines() if x[:1] != "#") for t in (old, new))
    gone, come = before - after, after - before
    names = {line.rpartition(" ")[0]: line for line in (*gone, *come)}
    found = [_word(name, gone, come, places) for name in sorted(names) if name != CALLS]
    if not found and names:
        return ["the same functions, put together otherwise"]
    return found


def _word(name: str, gone: Counter[str], come: Counter[str], places: Mapping[str, str]) -> str:
    old = [line for line in gone if line.rpartition(" ")[0] == name]
    new = [line for line in come if line.rpartition(" ")[0] == name]
    if name.startswith(f"{LIBRARY} "):
        versions = [line.rpartition(" ")[2] for line in (*old[:1], *new[:1])]
        return f"{name.removeprefix(f'{LIBRARY} ')} {' -> '.join(versions)}"
    where = sorted({places[line] for line in new if line in places})
    at = f" ({', '.join(where)})" if where else ""
    said = name.removeprefix(f"{FILE} ")
    return f"{said}{at}" + ("" if old and new else " is new" if new else " is gone")


def explain(found: dict[str, Any], stages: Stages, name: str) -> str:
    """Explain, for `omniopd why`, why a cell or each cell of an arm runs. Raises UserError."""
    arms = expand.named(found)
    waiting, reads = stale(found, stages), expand.upstream(found)
    running = _following(reads, {x for x in reads if x not in stages or x in waiting})
    if name in arms:
        keys = {
            key.rpartition("/")[2]
            for rounds in arms[name].values()
            for own in rounds.values()
            for key in own.values()
        }
        names = [x for x in reads if x.partition("@")[2] in keys]
    else:
        names = [x for x in reads if name in (x, x.partition("@")[2])]
    if not names:
        raise UserError(
            f"{name!r} is neither a cell nor an arm of the plan; arms: {sorted(arms)}. Name one."
        )
    told = list[str]()
    for one in names:
        if one not in running:
            told.append(f"{one}: nothing changed since it ran")
            continue
        told += [f"{one}:", *(f"  {x}" for x in _reasons(found, one, one in stages, waiting))]
        if mine := sorted(reads[one] & running):
            more = f" and {len(mine) - 3} more" if len(mine) > 3 else ""
            told.append(f"  reads {', '.join(mine[:3])}{more}, which may run")
    return "\n".join(told)


def _reasons(
    found: dict[str, Any], name: str, ran: bool, waiting: Mapping[str, Stale]
) -> Iterator[str]:
    """Yield why one cell runs, apart from changes in the cells that it reads."""
    if not ran:
        yield "has not run with these params and inputs"
        yield from _params(found, name)
    if (one := waiting.get(name)) is not None:
        if one.code is None:
            yield f"ran when each file of code was a dependency; now {locks.path(one.variant)} is"
        elif one.code:
            yield from (f"code: {line}" for line in code(found, one.variant, one.ran_with))
        yield from (f"input: {path} is another" for path in one.inputs)


def _params(found: dict[str, Any], name: str) -> Iterator[str]:
    """Settings that differ from those of the cell that had its place in the committed plan."""
    group, _, key = name.partition("@")
    before = history.committed_plan()
    for arm, seeds in expand.named(found).items():
        for seed, rounds in seeds.items():
            for round_, own in rounds.items():
                for stage, used in own.items():
                    if used.rpartition("/")[2] != key:
                        continue
                    old = _at(before, arm, seed, round_, stage)
                    if old is not None:
                        yield from _unequal(old["params"], found["cells"][group][key]["params"])
                        return


def _at(before: dict[str, Any], *place: str) -> dict[str, Any] | None:
    """The cell of an arm's stage in another plan; None where it has none there."""
    node: Any = expand.named(before) if before else {}
    for part in place:
        node = node.get(part, {}) if isinstance(node, dict) else {}
    if not isinstance(node, str):
        return None
    return history.committed_cell(node.rpartition("/")[2]) or None


def _unequal(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}, key=str):
            yield from _unequal(old.get(name), new.get(name), f"{path}.{name}" if path else name)
    elif old != new:
        yield f"params: {path} {old} -> {new}"
