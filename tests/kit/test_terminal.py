"""Tables that commands print: Markdown for a page, aligned columns for a terminal."""

import os
import pty
import subprocess
import sys

from tabloop.terminal import plain

TABLE = """**Worse.** AUC 0.7

| week | rows | observed/ predicted | why |
| --- | --- | --- | --- |
| 2026-11-23 | 12,345 | 1.02 | a \\| b |
| 2026-11-30 | 5 |  | {why} |

- a line | with a bar
"""


def test_columns_are_aligned_and_heads_are_narrow() -> None:
    assert plain(TABLE.format(why="x")).splitlines() == [
        "Worse. AUC 0.7",
        "",
        "week        rows    observed/  why",
        "                    predicted",
        "2026-11-23  12,345  1.02       a | b",
        "2026-11-30  5                  x",
        "",
        "- a line | with a bar",
    ]


def test_the_last_column_is_wrapped_for_80_columns() -> None:
    lines = plain(TABLE.format(why="distance 0.3, bar 0.1; " * 9)).splitlines()
    assert max(map(len, lines)) <= 78 and len(lines) > 8
    assert all(
        line.startswith(" " * 31 + "d") or line.startswith(" " * 31 + "b") or line[31:32].isdigit()
        for line in lines[6:-2]
    )


def test_a_text_without_a_table_and_an_empty_head_stay() -> None:
    assert plain("") == "" and plain("| no table |") == "| no table |"
    assert plain("| | a |\n|---|---|\n| x | 1 |") == "   a\nx  1"


def test_a_pipe_gets_markdown_and_a_terminal_the_table() -> None:
    """The workflow `promote` takes the text for its pull request from a pipe."""
    text = "**Drift**\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    command = [sys.executable, "-c", f"from tabloop.terminal import print_markdown; print_markdown({text!r})"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{text}\n"
    ours, theirs = pty.openpty()
    subprocess.run(command, stdout=theirs, check=True)
    assert os.read(ours, 1000).decode().split() == ["Drift", "a", "b", "1", "2"]
    os.close(ours)
    os.close(theirs)
