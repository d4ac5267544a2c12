"""At the start of a stage: its code is what its lock says, and it loads nothing else.

Nothing else, because a variant leaves out what it does not choose: should a stage come to import
that after all, its cells would depend on code that no lock of theirs holds. It is refused instead.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from pipeline.code_digest import files, locks
from pipeline.code_digest.variants import Variant
from pipeline.core.errors import UserError


def check(variant: Variant, confine: str = "") -> None:
    """Raise UserError unless the lock holds; with `confine`, refuse imports beyond it from here on.

    `confine`: the stage, in a process that does nothing but run it.
    """
    code = locks.check([variant])[variant.name]
    if confine:
        stages = Path(str(sys.modules["stages"].__file__)).parents[1]
        if stages.resolve() != files.root().resolve():
            raise UserError(
                f"{variant.name}: found the stages in {stages} and pipeline in {files.root()}, "
                "wanted both in one folder, as a lock is of both. Correct PYTHONPATH, or run it in "
                "the other folder."
            )
        for name in [name for name in sys.modules if _beyond(name, code.modules)]:
            raise _refusal(name, variant.name)
        _within.name, _within.modules = variant.name, code.modules
        if _within not in sys.meta_path:
            sys.meta_path.insert(0, _within)


class _Within(MetaPathFinder):
    """Refuses what is ours and not among `modules`; leaves all else to the finders after it."""

    name = ""
    modules: Sequence[str] = ()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if _beyond(fullname, self.modules):
            raise _refusal(fullname, self.name)
        return None


_within = _Within()


def _beyond(name: str, modules: Sequence[str]) -> bool:
    own = name.split(".")[0] in files.OWN
    ours = own and name != files.EXTENSIONS and not files.machinery(name)
    return ours and name not in modules


def _refusal(name: str, variant: str) -> ImportError:
    return ImportError(
        f"{name} is loaded, and code/{variant}.lock does not hold it: the variant is said not to "
        "choose it (pipeline/code_digest/variants.py), or it is loaded in a way that no text says "
        "(pipeline/code_digest/declared.py). Correct what is said there, then run `omniopd plan`."
    )
