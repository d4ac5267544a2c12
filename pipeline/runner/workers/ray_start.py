"""`ray start ...`, but a node that is given 127.0.0.1 is bound to it.

Ray replaces a loopback address by the machine's own, on which it then listens.
"""

import sys


def keep_loopback() -> None:
    """In this process Ray takes 127.0.0.1 as it is given. tests/runner/workers holds it."""
    from ray._private import services

    services.resolve_ip_for_localhost = lambda host: host


if __name__ == "__main__":
    keep_loopback()
    from ray.scripts.scripts import main

    sys.argv[0] = "ray"
    main()  # type: ignore[no-untyped-call]
