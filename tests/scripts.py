"""The scripts as modules."""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "scripts"


def script(name):
    """Import a script; those beside it can then be imported, too."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)
