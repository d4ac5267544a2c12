"""transformers imported without what it imports beside it and no stage uses."""

import sys

OPTIONAL = ("sklearn", "scipy", "pandas", "torchvision")


def import_transformers() -> None:
    """Import it as if the packages were absent that it imports where it finds them, for features
    that no stage uses: a fourth of its start-up time."""
    hidden = [name for name in OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        import transformers.generation.utils  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
