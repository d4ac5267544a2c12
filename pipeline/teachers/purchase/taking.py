"""Replies handed on one by one, none dropped by an interrupt."""

from collections.abc import Callable, Generator, Iterator

from pipeline.teachers.protocol import Answered


def each(
    replies: Iterator[Answered],
    take: Callable[[Answered], None],
    taken: Callable[[Answered], bool],
) -> None:
    """Hand every reply to `take`. `taken` says whether one is with the store, or in its spool.

    An interrupt while one is taken is thrown into what yields them: more may have arrived, and it
    raises the interrupt in the end.
    """
    interrupt: BaseException | None = None
    while (answered := _following(replies, interrupt)) is not None:
        try:
            take(answered)
        except (KeyboardInterrupt, SystemExit) as error:
            interrupt = error
            if not taken(answered):
                take(answered)
        else:
            interrupt = None


def _following(replies: Iterator[Answered], interrupt: BaseException | None) -> Answered | None:
    if interrupt is None:
        return next(replies, None)
    if not isinstance(replies, Generator):
        raise interrupt
    found: Answered = replies.throw(interrupt)
    return found
