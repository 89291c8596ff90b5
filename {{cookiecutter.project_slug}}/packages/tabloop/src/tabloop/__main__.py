"""The `tabloop` command, also as `python -m tabloop`."""

import sys


def main() -> None:
    """Run it. Ctrl-C is one line also while its first libraries are imported."""
    try:
        from tabloop.main import tabloop
    except KeyboardInterrupt:
        print("tabloop: stopped", file=sys.stderr)
        sys.exit(130)
    tabloop(prog_name="tabloop")


if __name__ == "__main__":
    main()
