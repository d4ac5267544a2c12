"""Signals as a person's terminal leaves them."""

import signal

DEFAULT = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGQUIT: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


def as_in_a_terminal() -> None:
    """Ignore none: a shell ignores INT and QUIT in what it runs in the background, `nohup` HUP,
    and children inherit that, so that a test's signals would do nothing."""
    for number, handler in DEFAULT.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
