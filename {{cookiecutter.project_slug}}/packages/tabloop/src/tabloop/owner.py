"""The project's own package, `src/<package>/`: where it is, and its modules."""

import importlib
import os
import runpy
import sys
from collections.abc import Iterable
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
    return importlib.import_module(_found(name))


def run(name: str, arguments: Iterable[str]) -> None:
    """Run a module of the project's package as `python -m` does, from this working tree; what it starts finds it there, too.

    Raises:
        UserError: there is no such module.
    """
    whole = _found(name)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
    sys.argv = [name, *arguments]
    runpy.run_module(whole, run_name="__main__", alter_sys=True)


def _found(name: str) -> str:
    """The module's whole name, which this process now finds in src/."""
    if not (path := ROOT / "src" / package() / f"{name}.py").exists():
        raise UserError(f"{path.relative_to(ROOT)} is missing")
    sys.path.insert(0, str(ROOT / "src"))
    return f"{package()}.{name}"
