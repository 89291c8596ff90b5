"""The fixtures of tests/kit."""

from kit.conftest import project, tabloop

__all__ = ["project", "tabloop"]
