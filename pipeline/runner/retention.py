"""experiment.keep_checkpoints: which trained checkpoints stay on the disk, and notes on the others.

A train cell's checkpoint and moments are dropped when every cell of the plan that reads them is
done: from the folder and from DVC's cache (pipeline/runner/drop_weights.py). Tables, metrics and
run.json stay, so do the models of stage pretrain, on which adapters sit, and the last round.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engines.checkpoints import NOTE
from pipeline.plan import expand, experiment

TRAIN = Path("data/train")
WEIGHTS = ("checkpoint", "optimizer.safetensors")  # outs of a train cell that are dropped


@dataclass(frozen=True)
class Keep:
    """The meaning of experiment.keep_checkpoints for a plan. Cells are named as DVC names them."""

    what: str  # all, every:K, last
    readers: dict[str, frozenset[str]]  # of each train cell that is not kept: who reads its weights

    def over(self, done: Iterable[str]) -> set[str]:
        """Cells whose weights nobody will read any more, when `done` are."""
        if not self.readers:  # once for each cell that ends
            return set()
        finished = set(done)
        return {name for name, users in self.readers.items() if {name, *users} <= finished}

    def dropped(self) -> list[str]:
        """Cells whose weights have been dropped."""
        return [name for name in self.readers if not all(p.exists() for p in weights(name))]

    def left(self, names: Iterable[str]) -> set[str]:
        """Those of these cells that still have some of their weights."""
        return {name for name in names if any(p.exists() for p in weights(name))}


ALL = Keep("all", {})


def wanted() -> str:
    """experiment.keep_checkpoints of params.yaml."""
    return experiment.load().experiment.keep_checkpoints


def of(found: dict[str, Any], what: str) -> Keep:
    """The plan `found` under experiment.keep_checkpoints `what`."""
    reads = expand.upstream(found)
    names = {name.partition("@")[2]: name for name in reads if trains(name)}
    for key in _kept(found, what):
        names.pop(key, None)
    readers: dict[str, set[str]] = {name: set() for name in names.values()}
    for name, read in reads.items():
        if not name.startswith("report"):  # it reads metrics and run.json alone
            for one in read & set(readers):
                readers[one].add(name)
    return Keep(what, {name: frozenset(users) for name, users in readers.items()})


def _kept(found: dict[str, Any], what: str) -> set[str]:
    """Keys of the train cells of rounds that are kept, of every arm, seed and branch."""
    kept = set()
    for seeds in expand.named(found).values():
        for rounds in seeds.values():
            numbers = {int(name.removeprefix("round-")): own for name, own in rounds.items()}
            for round_, own in numbers.items():
                if "train" in own and keeps(what, round_, max(numbers)):
                    kept.add(own["train"])
    return kept


def keeps(what: str, round_: int, last: int) -> bool:
    """Whether experiment.keep_checkpoints `what` leaves the weights of a round, of `last`."""
    match what.partition(":"):
        case "all", _, _:
            return True
        case "every", _, k:
            return round_ % int(k) == 0 or round_ == last
        case _:
            return round_ == last


def trains(name: str) -> bool:
    """Whether the cell writes a trained checkpoint."""
    return re.split("[-@]", name)[0] in ("train", "steps")


def weights(name: str) -> list[Path]:
    """The outs of a train cell that are dropped."""
    return [folder(name) / out for out in WEIGHTS]


def folder(name: str) -> Path:
    return TRAIN / name.partition("@")[2]


def note(name: str, what: str) -> None:
    """Say in the cell's folder, which the links of data/arms lead to, what is not there."""
    (folder(name) / NOTE).write_text(
        f"{' and '.join(WEIGHTS)} were dropped by experiment.keep_checkpoints: {what}. They are "
        "trained again when a changed cell reads them, and by `omniopd run` after "
        "experiment.keep_checkpoints: all.\n",
        encoding="utf-8",
    )


def tidy() -> None:
    """Remove notes from cells that have been trained again."""
    for path in TRAIN.glob(f"*/{NOTE}"):
        if all((path.parent / out).exists() for out in WEIGHTS):
            path.unlink()


def line(keep: Keep) -> str:
    """For `omniopd plan`; empty where everything is kept."""
    if not keep.readers:
        return ""
    return (
        f"experiment.keep_checkpoints {keep.what}: {len(keep.readers)} train cells lose checkpoint "
        f"and moments once they are read, {len(keep.dropped())} have none now. Plain `dvc repro` "
        "wants --allow-missing, and `omniopd drop` after it"
    )
