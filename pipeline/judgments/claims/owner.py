"""The name under which a process claims: one of its own, that says where it runs.

RANDOM.PID.HOST fits the column; what earlier releases wrote is RANDOM alone.
"""

import os
import platform
import uuid

LENGTH = 32  # characters of the column
RANDOM = 12  # hexadecimal digits


def new() -> str:
    """A name that no other open store has."""
    host = platform.node().encode("ascii", "replace").decode()
    return f"{uuid.uuid4().hex[:RANDOM]}.{os.getpid()}.{host}"[:LENGTH]


def shown(name: str) -> str:
    """Who that is, as it may be told."""
    _, _, rest = name.partition(".")
    pid, _, host = rest.partition(".")
    return f"process {pid} on {host}" if pid else "another process"
