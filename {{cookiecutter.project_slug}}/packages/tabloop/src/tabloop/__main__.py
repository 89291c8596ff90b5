"""`python -m tabloop` is the `tabloop` command."""

from tabloop.main import tabloop

if __name__ == "__main__":
    tabloop(prog_name="tabloop")
