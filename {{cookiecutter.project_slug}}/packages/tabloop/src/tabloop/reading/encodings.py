# ruff: noqa: RUF001 - signs that people write are meant as they are
"""Text as UTF-8, whatever its encoding; what was guessed is shown with an example."""

import codecs
import functools
import re
import unicodedata
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

from tabloop.cli import UserError, explained
from tabloop.files import temporary
from tabloop.progress import progress
from tabloop.reading.result import Note

MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# What tables are written in today, and what DOS, the old Mac and ISO had; chardet knows more, and few words fit too many.
MODERN = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8-r"]
MODERN += ["cp932", "gb18030", "big5", "cp949", "euc-jp"]
OLD = ["cp850", "cp852", "cp857", "cp866", "mac-roman", "iso8859-2", "iso8859-5", "iso8859-9"]
# A sign in a word or right before it, or one that draws boxes.
STRANGE = re.compile(
    r"[^\W\d_][^\w\s\x00-\x7f’‘“”–—·]+[^\W\d_]|[^\w\s\x00-\x7f’‘“”„‚«‹»›¿¡–—·€£¥°±×•…][^\w\s]*[^\W\d_]|[\u2500-\u259f]"
)
ODD = re.compile(rb"[^\x00-\x2c\x3b]*[\x80-\xff][^\x00-\x2c\x3b]*")  # a word with bytes outside ASCII
CHUNK = 1 << 22


def as_utf8(path: Path, encoding: str | None) -> tuple[Path, str, list[Note]]:
    """The file in UTF-8 (itself, or a copy), its encoding, and what was guessed or removed.

    Raises:
        UserError: it isn't in the encoding given, or in none that is known.
    """
    (unicode, signs), notes = scan(path), []
    nul, crlf, cr, lf = (signs[sign] for sign in (b"\0", b"\r\n", b"\r", b"\n"))
    encoding = encoding or marked(path) or ("utf-8" if unicode else None)
    if encoding is None:
        encoding, note = guessed(path)
        notes.append(note)
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise UserError(f"encoding: {encoding!r} is unknown; try utf-8, utf-16, cp1252 or cp1251") from None
    wide = codec.startswith(("utf-16", "utf-32"))
    mixed = 0 < crlf < max(lf, cr) or (cr > 0 and not lf)
    if nul and not wide:
        notes.append(Note(None, "warning", f"{nul:,} NUL bytes removed"))
    if codec == "utf-8" and unicode and not mixed and not nul:
        return path, codec, notes
    copy = temporary() / path.name
    with (
        explained(f"{path.name} is not {encoding}", UnicodeError, then="; give another encoding"),
        path.open(encoding=codec, newline="") as text,
        copy.open("w", encoding="utf-8", newline="") as to,
    ):
        while part := text.read(CHUNK):
            part += text.read(1) if part.endswith("\r") else ""
            part = part.replace("\0", "").replace("\r\n", "\n")
            to.write(part if lf or wide else part.replace("\r", "\n"))
    return copy, codec, notes


def marked(path: Path) -> str | None:
    """The encoding by the byte order mark, or by the NUL bytes between letters of ASCII."""
    with path.open("rb") as file:
        head = file.read(2048)
    if found := next((name for mark, name in MARKS.items() if head.startswith(mark)), None):
        return found
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) > len(head) / 5 and min(even, odd) < max(even, odd) / 4:
        return "utf-16-be" if even > odd else "utf-16-le"
    return None


def scan(path: Path) -> tuple[bool, Counter[bytes]]:
    """Whether all of a file is UTF-8; how often it has NUL and the signs of line ends."""
    unicode, counts, decoder = True, Counter[bytes](), codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file, progress("reading bytes", path.stat().st_size) as bar:
        for chunk in chain(iter(lambda: file.read(CHUNK), b""), [b""]):  # the last one ends the decoder
            chunk += file.read(1) if chunk.endswith(b"\r") else b""  # half of a line's end
            bar.update(len(chunk))
            for sign in (b"\0", b"\r\n", b"\r", b"\n"):
                counts[sign] += chunk.count(sign) if sign in chunk else 0  # counting takes ten times as long
            try:
                decoder.decode(chunk if unicode else b"", final=not chunk)
            except UnicodeDecodeError:
                unicode = False
    return unicode, counts


def guessed(path: Path) -> tuple[str, Note]:
    """The likeliest encoding of the words outside ASCII; Windows-1252 where another is hardly likelier.

    Raises:
        UserError: it is UTF-8 but for a few bytes.
    """
    import chardet

    odd: dict[bytes, None] = {}
    with path.open("rb") as file:
        while len(odd) < 2000 and (lines := file.readlines(CHUNK)):
            odd |= dict.fromkeys(word for line in lines for word in ODD.findall(line))
    words = [word for word in odd if not _decodes(word, "utf-8")]
    if len(words) < len(odd) / 2:
        what = f"broken bytes, such as {words[0][:40]!r}: correct them or give an encoding"
        raise UserError(f"{path.name} is UTF-8 with {what}")
    likely: dict[str, float] = {}
    options: dict[str, Any] = {"include_encodings": MODERN + OLD}
    options |= {"ignore_threshold": True, "compat_names": False}
    for one in chardet.detect_all(b" ".join(words)[:100_000], **options):
        name, weight = str(one["encoding"]), float(one["confidence"]) + 0.02
        if all(_decodes(word, name) for word in words):
            share = sum(_plausible(word.decode(name)) for word in words) / len(words)
            likely[name] = weight * share**4 * (1.3 if name == "cp1252" else 0.7 if name in OLD else 1)
    best, *others = [*sorted(likely, key=lambda name: -likely[name]), "latin-1"]
    differing = [w for w in words if others and w.decode(others[0], "replace") != w.decode(best)] or words
    example = min(differing, key=len)
    shown: dict[str, str] = {}
    for name in (best, *others):
        shown.setdefault(example.decode(name, "replace").strip(), name)
    value, *rest = list(shown.items())[:4]
    text = f"not UTF-8: read as {best}, so that a value is {value[0]!r}"
    text += "".join(f", or {other!r} in {name}" for other, name in rest)
    return best, Note(None, "warning", f"{text}; `--encoding` says which")


def _plausible(text: str) -> bool:
    """Whether letters stand as people write them: a word is of one script, and small, capital, or begins with a capital."""
    words = [word for word in re.findall(r"[^\W\d_]+", text) if not word.isascii()]
    return not STRANGE.search(text) and all(
        len(set(map(_script, word))) == 1 and word in (word.upper(), word[0] + word[1:].lower())
        for word in words
    )


@functools.cache
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "").split()[0:1]
    return {"HIRAGANA": "CJK", "KATAKANA": "CJK", "MICRO": "LATIN"}.get(*name, *name) if name else ""


def _decodes(word: bytes, encoding: str) -> bool:
    try:
        return word.decode(encoding).isprintable()
    except UnicodeError:
        return False
