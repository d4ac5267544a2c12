"""What a command says on stderr: its own lines, and of the libraries only warnings."""

import logging
import sys

LOUD = ("httpx", "httpx2", "google_genai")  # a line for each request otherwise


def start() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
