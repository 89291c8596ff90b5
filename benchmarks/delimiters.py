"""How often the delimiter, quote and escape of a text file are found, by CleverCSV as `adopt` asks it and by what else there is.

    uv run benchmarks/delimiters.py

500 random tables are written by the csv module: links, names, JSON, money, decimal commas and prose in their cells, six
delimiters, four ways to quote, some with a title. Found is what reads all cells as they were written.
"""

import csv
import io
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
from tabloop.reading import dialect

TABLES, DELIMITERS = 500, ",,;;\t|^~"
WORDS = [
    "Bern",
    "Zürich",
    "the",
    "a",
    "of",
    "order",
    "late",
    "paid,",
    "returned;",
    "urgent",
    "|",
    "ok",
    "yes",
    "no",
    "N/A",
]
Random = random.Random
CELLS: dict[str, Callable[[Random], str]] = {
    "integer": lambda r: str(r.randint(0, 9999)),
    "comma": lambda r: f"{r.random() * 100:.2f}".replace(".", ","),
    "thousands": lambda r: f"{r.randint(1000, 9999999):,}",
    "date": lambda r: f"{r.randint(2001, 2025)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}",
    "time": lambda r: f"{r.randint(1, 28)}.{r.randint(1, 12)}.2024 {r.randint(0, 23)}:{r.randint(10, 59)}",
    "level": lambda r: r.choice(["red", "green", "blue", ""]),
    "prose": lambda r: " ".join(r.choices(WORDS, k=r.randint(2, 12))),
    "speech": lambda r: f'said "{" ".join(r.choices(WORDS, k=3))}" twice',
    "money": lambda r: f"€ {r.randint(1, 999)}.{r.randint(10, 99)}",
    "json": lambda r: f'{{"a": {r.randint(0, 9)}, "b": [1, 2]}}',
    "link": lambda r: f"https://x.org/a?b={r.randint(0, 9)}&c={r.randint(0, 9)};d",
    "name": lambda r: f"O'Brien, {r.choice(['Ann', 'Bob'])}",
}
Found = dict[str, Any] | None


def table(r: Random) -> tuple[str, list[list[str]]]:
    """A text file, and its cells without the head."""
    kinds = r.choices(list(CELLS), k=r.randint(2, 12))
    rows = [[CELLS[kind](r) for kind in kinds] for _ in range(r.choice([5, 12, 40, 300]))]
    back: dict[str, Any] = r.choice([{}, {}, {}, {}, {"doublequote": False, "escapechar": "\\"}])
    quoting: Any = r.choice([csv.QUOTE_MINIMAL] * 3 + [csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    text = io.StringIO()
    writer = csv.writer(text, delimiter=r.choice(DELIMITERS), quoting=quoting, lineterminator="\n", **back)
    writer.writerows([[f"{kind}_{i}" for i, kind in enumerate(kinds)], *rows])
    return r.choice([""] * 6 + ["Report of 2024, by me\n\n"]) + text.getvalue(), rows


def by_duckdb(path: Path) -> Found:
    """DuckDB's own guess."""
    sql = "SELECT Delimiter, Quote, Escape FROM sniff_csv(?, sample_size = -1)"
    try:
        signs = [sign.replace("(empty)", "") for sign in duckdb.execute(sql, [str(path)]).fetchall()[0]]
    except duckdb.Error:
        return None
    return {"delimiter": signs[0], "quote": signs[1] or '"', "escape": signs[2].replace('"', "") or None}


def by_python(path: Path) -> Found:
    """The csv module's own guess."""
    try:
        found = csv.Sniffer().sniff(path.read_text("utf-8"))
    except csv.Error:
        return None
    return {"delimiter": found.delimiter, "quote": found.quotechar or '"', "escape": found.escapechar}


def by_clevercsv(path: Path) -> Found:
    """What `adopt` asks."""
    return dialect.find(dialect.sample(path), None)


def main() -> None:
    """Print a line for each way."""
    print("| by | tables found | CPU, ms a table |\n|---|---|---|")
    for name, find in {"CleverCSV": by_clevercsv, "DuckDB": by_duckdb, "csv.Sniffer": by_python}.items():
        r, right, used = Random(1), 0, 0.0
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(TABLES):
                text, rows = table(r)
                path = Path(folder, "table.csv")
                path.write_text(text, "utf-8")
                begin = time.process_time()
                found = find(path)
                used += time.process_time() - begin
                if found and len(found["delimiter"]) == 1:
                    given = found["delimiter"], found.get("quote", '"'), found.get("escape")
                    right += dialect.cells(text.splitlines(keepends=True), *given)[-len(rows) :] == rows
        print(f"| {name} | {right / TABLES:.1%} | {1000 * used / TABLES:.1f} |")


if __name__ == "__main__":
    main()
