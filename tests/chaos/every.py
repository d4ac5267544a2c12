"""All kinds of faults, and what several of them share: a database server, a finished project."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos import buying, damage, postgres, stages  # noqa: F401 - they register their kinds


@contextmanager
def ready() -> Iterator[None]:
    """What the kinds need, made before the first fault."""
    buying.undisturbed()
    with stages.ready(), postgres.ready():
        yield
