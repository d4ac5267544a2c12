"""Errors that a user can act on: the value found, the value wanted, what to do."""

import errno
import re
import sys
import unicodedata
from typing import Any, NoReturn

STATUS = 2  # exit status of bad input, as of a command line that cannot be read; a bug's is 1
LONGEST = 2000  # characters of a message
TAIL = 600  # of them behind a cut: what to do comes last
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # classes of characters that show nothing
REMEDIES = {  # by what the system says: what was wanted, and what to do
    errno.ENOENT: "wanted something that is there. Correct the path, or make it first.",
    errno.EACCES: "wanted the right to read and write it. Change its rights or its owner.",
    errno.EPERM: "wanted the right to change it. Change its rights or its owner.",
    errno.EROFS: "wanted a place that can be written. Use another folder.",
    errno.EISDIR: "wanted a file. Name a file in it.",
    errno.ENOTDIR: "wanted a folder in its path. Correct the path, or move that file away.",
    errno.EEXIST: "wanted a folder or nothing there. Move that file away, or use another path.",
    errno.ENOSPC: "wanted free space. Free some, then rerun.",
    errno.EDQUOT: "wanted free space. Free some of your quota, then rerun.",
    errno.ENAMETOOLONG: "wanted a name that the file system takes. Use a shorter one.",
    errno.ELOOP: "wanted links that lead somewhere. Correct the link.",
    errno.EMFILE: "wanted a free file handle. Raise the limit with `ulimit -n`.",
}


class UserError(Exception):
    """Bad input. Stages and commands print it as one paragraph and exit with `STATUS`."""


def refuse(key: str, found: Any, wanted: str, remedy: str) -> None:
    """Raise UserError because of a key of params.yaml."""
    raise UserError(f"params.yaml: {key}: found {found!r}, wanted {wanted}. {remedy}")


def stop(error: UserError | OSError) -> NoReturn:
    """End the process with the message on stderr and exit status `STATUS`."""
    sys.stderr.write(f"error: {paragraph(error)}\n")
    sys.exit(STATUS)


def paragraph(error: UserError | OSError) -> str:
    """One line of at most `LONGEST` characters, without any that could move a terminal's cursor."""
    text = _of_system(error) if isinstance(error, OSError) else str(error)
    shown = "".join(_shown(sign) for sign in re.sub(r"\s+", " ", text).strip())
    if len(shown) <= LONGEST:
        return shown
    return f"{shown[: LONGEST - TAIL - 5]} ... {shown[-TAIL:]}"


def short(value: object, most: int = 80) -> str:
    """A value as Python writes it, cut: what a message shows of what was found."""
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[: most - 15]} ... {shown[-10:]}"


def too_long(where: str, tokens: int, limit: int, remedy: str) -> UserError:
    """The error to raise where a row is longer than its model can read."""
    return UserError(
        f"{where}: found {tokens} tokens, wanted at most {limit}, the model's context; nothing is "
        f"cut to fit. {remedy}"
    )


def _of_system(error: OSError) -> str:
    if error.strerror is None or error.errno is None:
        return str(error)
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    remedy = REMEDIES.get(error.errno, "wanted none. Fix what it names, then rerun.")
    return f"{' and '.join(named) or 'the system'}: found '{error.strerror}', {remedy}"


def _shown(sign: str) -> str:
    if unicodedata.category(sign) not in HIDDEN:
        return sign
    return sign.encode("unicode_escape").decode("ascii")
