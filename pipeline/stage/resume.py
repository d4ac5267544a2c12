"""Keep the work of a long stage while it runs, so that a killed one goes on from there.

Files lie in .resume/STAGE-KEY/, not among the outs, which DVC removes before it runs a stage. Each
is safetensors, written whole or not at all; its metadata holds the hash of all that the work is a
function of, and a checksum. What is of other inputs, or damaged, is named and removed. A stage
that ends well removes its folder, `omniopd plan` those of cells that the plan no longer has.

A run that went on ends in the bytes of one that was never disturbed, on the same machine.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from pipeline.config.params import Runtime
from pipeline.core import files
from pipeline.core.disk_rows import Row, Spool
from pipeline.core.errors import UserError
from pipeline.core.files import replacing
from pipeline.stage import cells

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

Stream = Callable[[Collection[int]], Iterator[tuple[int, Row]]]

FOLDER = Path(".resume")
VERSIONS = ("numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")
SHARD = 256  # most rows in a file
SHARE = 10  # keeping takes at most one part in so many of the time


class State:
    """The kept work of one cell. Nothing is written before runtime.keep_seconds have passed."""

    def __init__(self, stage: str, args: Namespace, runtime: Runtime) -> None:
        self.stage, self.key, self.runtime = stage, args.cell, runtime
        self.folder = FOLDER / f"{stage}-{args.cell}"
        self.earlier = 0.0  # seconds that killed runs of the cell put into what is kept
        self._inputs: str | None = None
        self._opened = self._last = time.monotonic()
        self._cost = 0.0  # seconds that keeping took the last time
        self._off = not runtime.keep_seconds
        # rows that no file here holds yet, by name
        self._fresh: dict[str, tuple[Spool, list[int]]] = {}
        for left in args.out.glob(".*.tmp"):  # of a run that was killed while it wrote its outs
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if self.folder.is_dir():
            self._inputs = inputs(stage, self.key, runtime)
            self._clean()

    @property
    def off(self) -> bool:
        """Whether nothing is kept."""
        return self._off

    def due(self) -> bool:
        """Whether it is time to keep something."""
        passed = time.monotonic() - self._last
        return not self._off and passed >= max(self.runtime.keep_seconds, SHARE * self._cost)

    def keep(self, name: str, tensors: "Tensors", values: Any) -> None:
        """Keep `tensors` and JSON `values` under `name`. What cannot be written is a warning."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if self._inputs is None and not self._identified():
            return
        start = time.monotonic()
        text = json.dumps(values)
        metadata = {
            "inputs": str(self._inputs),
            "values": text,
            "checksum": _checksum(tensors, text),
            "seconds": str(self.earlier + start - self._opened),
        }
        try:
            with replacing(self._path(name)) as temporary:
                save_file(tensors, temporary, metadata)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
        except (UserError, OSError, SafetensorError) as error:  # the last is a full disk, too
            cells.log.warning(
                f"{self.stage} {self.key}: nothing kept to go on from ({error}). The stage goes "
                "on; killed now, it would lose what it did since."
            )
        self._last = time.monotonic()
        self._cost = self._last - start

    def kept(self, name: str) -> "tuple[Tensors, Any] | None":
        """Tensors and values under `name`; None where there are none, or no whole ones."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            metadata, tensors = whole(path)
        except ValueError as error:
            self._drop(path, f"damaged ({error})")
            return None
        self.earlier = max(self.earlier, float(metadata["seconds"]))
        return tensors, json.loads(metadata["values"])

    def rows(self, name: str, total: int, stream: Stream) -> Spool:
        """The rows of `stream(done)`, which yields (index, arrays) of those not `done`."""
        found = Spool(total)
        for path in sorted(self.folder.glob(f"{name}-*.safetensors")):
            shard = self.kept(path.stem)
            for index, row in ({} if shard is None else _unpacked(shard[0])).items():
                found.add(index, row)
        if found:
            self.say(f"{len(found)} of {total} rows of {name}")
        bar = tqdm(total=total, initial=len(found), desc=f"{self.stage} {name}", disable=None)
        for index, row in stream(frozenset(found)):
            found.add(index, row)
            if not self._off:
                self._fresh.setdefault(name, (found, []))[1].append(index)
            bar.update()
            if self.due():
                self._keep_rows()
        bar.close()
        return found

    def _keep_rows(self) -> None:
        start = time.monotonic()
        for name, (found, indices) in self._fresh.items():
            names = {path.stem for path in self.folder.glob(f"{name}-*.safetensors")}
            number = max((int(stem.rpartition("-")[2]) for stem in names), default=0)
            for shard in (indices[i : i + SHARD] for i in range(0, len(indices), SHARD)):
                if self._off:  # as was found at the first
                    break
                number += 1
                self.keep(f"{name}-{number:06}", _packed({i: found[i] for i in shard}), None)
        self._fresh, self._cost = {}, time.monotonic() - start

    def remove(self) -> None:
        """The stage has ended: there is nothing to go on from."""
        shutil.rmtree(self.folder, ignore_errors=True)
        _tidy()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _identified(self) -> bool:
        """Hash the inputs, unless code was edited since it was loaded: then nothing is kept."""
        try:
            cells.check_code(self.stage, self.key)
            self._inputs = inputs(self.stage, self.key, self.runtime)
        except (UserError, OSError, KeyError) as error:  # the plan has changed since, too
            cells.log.warning(f"{self.stage} {self.key}: nothing is kept to go on from: {error}")
            self._off = True
        return not self._off

    def _clean(self) -> None:
        from safetensors import SafetensorError

        for path in self.folder.iterdir():
            try:
                if path.suffix != ".safetensors":
                    path.unlink()  # of a run that was killed while it wrote it
                elif _metadata(path)["inputs"] != self._inputs:
                    self._drop(path, "of other params, inputs or code")
            except (SafetensorError, KeyError) as error:
                self._drop(path, f"damaged ({error})")

    def _drop(self, path: Path, why: str) -> None:
        path.unlink()
        cells.log.warning(f"{path}: {why}; removed. The stage does that work again.")

    def say(self, what: str) -> None:
        """Log what the stage need not do again."""
        cells.log.info(f"{self.stage} {self.key}: goes on after {what}, kept in {self.folder}")


@contextmanager
def state(stage: str, args: Namespace, runtime: Runtime) -> Iterator[State]:
    """Yield the kept work of the cell; it is removed when the block ends well."""
    found = State(stage, args, runtime)
    yield found
    found.remove()


def rows(kept: State | None, name: str, total: int, stream: Stream) -> Spool:
    """The rows of `stream(done)`, which yields (index, arrays) of those not `done`; on disk."""
    if kept is not None:
        return kept.rows(name, total, stream)
    found = Spool(total)
    for index, row in stream(()):
        found.add(index, row)
    return found


def forget(keys: Iterable[str]) -> None:
    """Remove what is kept of cells other than `keys`."""
    wanted = set(keys)
    for folder in FOLDER.glob("*-*"):
        if folder.name.rpartition("-")[2] not in wanted:
            shutil.rmtree(folder)
    _tidy()


def _tidy() -> None:
    with contextlib.suppress(OSError):  # not there, or another cell's work lies in it
        FOLDER.rmdir()


def inputs(stage: str, key: str, runtime: Runtime) -> str:
    """Hash of the cell's params, of what it reads, code and data, and of how it computes.

    How many rows share a forward pass, threads and versions decide the last bits of a result.
    """
    how = runtime.model_dump(exclude={"keep_seconds", "tflops", "gb_per_s"})
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    content = {str(path): _digest(path) for path in deps(stage, key)}
    whole = [cells.cell(stage, key)[1]["params"], how, versions, content]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


@functools.cache
def deps(stage: str, key: str) -> list[Path]:
    """The paths that the cell reads, the lock of its code among them."""
    content = cells.cell(stage, key)[1]
    # a step has the code of the cell that it is a part of
    code = content.get("code") or cells.cell("steps", key.partition("/")[0])[1]["code"]
    return [*(Path(cells.place(path)) for path in content["deps"]), Path(f"code/{code}.lock")]


def _files(path: Path) -> list[Path]:
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in found if file.is_file() and "__pycache__" not in file.parts]


def _digest(path: Path) -> list[tuple[str, str]]:
    return [(str(file), files.sha256(file)) for file in _files(path)]


def whole(path: Path) -> "tuple[dict[str, str], Tensors]":
    """Metadata and tensors of a file that was kept. Raises ValueError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        metadata, tensors = _metadata(path), load_file(path)
        if _checksum(tensors, metadata["values"]) != metadata["checksum"]:
            raise ValueError("its checksum is another")
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error
    return metadata, tensors


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def _checksum(tensors: "Tensors", values: str) -> str:
    import torch

    digest = hashlib.sha256(values.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # an empty one has no bytes to view
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _packed(rows: dict[int, Row]) -> "Tensors":
    """Rows' arrays one after the other, as many columns as a row has arrays."""
    import torch

    packed = {"index": torch.tensor(list(rows))}
    for column, arrays in enumerate(zip(*rows.values(), strict=True)):
        packed[f"lengths.{column}"] = torch.tensor([len(array) for array in arrays])
        packed[f"values.{column}"] = torch.from_numpy(np.concatenate(arrays))
    return packed


def _unpacked(packed: "Tensors") -> dict[int, Row]:
    columns = []
    for column in range((len(packed) - 1) // 2):
        ends = np.cumsum(packed[f"lengths.{column}"].numpy())
        columns.append(np.split(packed[f"values.{column}"].numpy(), ends[:-1]))
    return dict(zip(packed["index"].tolist(), zip(*columns, strict=True), strict=True))
