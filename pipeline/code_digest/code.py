"""The code of a variant as lines of its lock."""

from dataclasses import dataclass

from pipeline.code_digest import libraries

FILE, LIBRARY, CALLS = "file", "library", "calls"  # beginnings of lines that name no symbol


@dataclass(frozen=True)
class Code:
    """The code of a variant."""

    lines: tuple[str, ...]  # of symbols, files and calls
    libraries: tuple[str, ...]  # by the names of their imports
    modules: tuple[str, ...]  # ours, that it may load
    places: tuple[tuple[str, str], ...]  # a line, and the path that it comes from

    def text(self) -> str:
        """The lines with the versions of the libraries as they are here."""
        found = [f"{LIBRARY} {name} {libraries.version(name)}" for name in self.libraries]
        return "".join(f"{line}\n" for line in (*self.lines, *found))
