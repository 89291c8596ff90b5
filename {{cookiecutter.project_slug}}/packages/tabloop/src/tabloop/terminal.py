"""What commands print, for a terminal of 80 columns."""

import re
import sys
import textwrap
from itertools import zip_longest

WIDTH = 78  # so that a terminal of 80 does not wrap it, also below the summary
LAST = 24  # the least width to which a table's last column is wrapped


def print_markdown(text: str, err: bool = False) -> None:
    """Print Markdown: as it is into a file or a pipe, as a workflow takes it; else as `plain` makes it."""
    stream = sys.stderr if err else sys.stdout
    print(plain(text) if stream.isatty() else text, file=stream, flush=True)


def plain(text: str) -> str:
    """Markdown without its signs: its tables have aligned columns."""
    tables = r"(?m)^\|.*\n\| ?-.*(\n\|.*)*"  # head, rule, rows

    def lines(table: re.Match[str]) -> str:
        cells = [[cell.strip() for cell in f" {line[1:-1]} ".split(" | ")] for line in table[0].splitlines()]
        return "\n".join(aligned([cells[0], *cells[2:]]))

    return re.sub(tables, lines, text.replace("**", "")).replace("&lt;", "<").replace("\\|", "|")


def aligned(rows: list[list[str]]) -> list[str]:
    """The lines of a table, whose first row is its head: columns are aligned, the head and the last column are wrapped."""
    heads = [max(map(len, name.split()), default=1) for name in rows[0]]
    *widths, _ = (max(own) for own in zip(heads, *([*map(len, row)] for row in rows[1:]), strict=True))
    widths.append(max(LAST, WIDTH - sum(widths) - 2 * len(widths)))
    lines = [line for row in rows for line in zip_longest(*map(textwrap.wrap, row, widths), fillvalue="")]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
