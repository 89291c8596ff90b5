"""Tables that commands print: Markdown for a page, aligned columns for a terminal."""

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
