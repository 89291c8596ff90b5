"""The project's own package, `src/<package>/`: where it is, and its modules."""

import importlib
import sys
from types import ModuleType

from tabloop.cli import UserError
from tabloop.params import ROOT


def package() -> str:
    """The name of the project's package: the folder in src/ that has model.py.

    Raises:
        UserError: there is none, or more than one.
    """
    found = sorted(path.parent.name for path in (ROOT / "src").glob("*/model.py"))
    if len(found) != 1:
        raise UserError(f"src/ must have one package with a model.py; it has: {', '.join(found) or 'none'}")
    return found[0]


def module(name: str) -> ModuleType:
    """A module of the project's package, from this working tree, wherever the package is installed.

    Raises:
        UserError: there is no such module.
    """
    if not (path := ROOT / "src" / package() / f"{name}.py").exists():
        raise UserError(f"{path.relative_to(ROOT)} is missing")
    sys.path.insert(0, str(ROOT / "src"))
    return importlib.import_module(f"{package()}.{name}")
