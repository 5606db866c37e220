"""A JSON array that is read item by item, however long it is and however few lines it has."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError

BLANKS = re.compile(r"[ \t\n\r]*+")  # of JSON
LONGEST_ROW = 32 * 2**20  # bytes of a line, characters of an item: no row of texts is longer
LONGEST_SIGN = len("-Infinity")  # characters; an error further from the end of the text is there for good


def read_array(path: Path, blocks: Iterator[bytes]) -> Iterator[Any]:
    """Items of the array that a file's bytes are; InputError names the line of what is wrong."""
    text = _Text(path, blocks)
    text.take("[")
    if not text.follows("]"):
        yield text.value()
        while not text.follows("]"):
            text.take(",")
            yield text.value()
    text.take("]")
    text.end()


class _Text:
    """Text that is taken value by value and read on as it is used up."""

    def __init__(self, path: Path, blocks: Iterator[bytes]):
        self._path, self._blocks = path, blocks
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at, self._line = 0, 1  # how far it is used, and the line of that place

    def follows(self, sign: str) -> bool:
        """True where this sign comes next, white space aside."""
        while True:
            blanks = BLANKS.match(self._text, self._at)
            self._use(blanks.end() if blanks else self._at)
            left = self._text[self._at : self._at + 1]
            if left or not self._more():
                return left == sign

    def take(self, sign: str) -> None:
        if not self.follows(sign):
            raise self._wrong(f"Expecting {sign!r}", self._at)
        self._use(self._at + 1)

    def end(self) -> None:
        if not self.follows(""):
            raise self._wrong("Extra data", self._at)

    def value(self) -> Any:
        """The next JSON value; twice as much is read each time that it is not whole."""
        self.follows("")
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                left = len(self._text) - self._at
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - LONGEST_SIGN
                if is_cut and left > LONGEST_ROW:
                    raise InputError(too_long(f"{self._path}, line {self._line}")) from None
                if not is_cut or not self._more(left):
                    raise self._wrong(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
                raise self._wrong(str(error), self._at) from None
            else:
                self._use(end)
                return value

    def _more(self, wanted: int = 1) -> bool:
        """Read on, so many bytes or more; False at the end of the file."""
        parts, size = [], 0
        while size < wanted and (block := next(self._blocks, b"")):
            parts.append(block)
            size += len(block)
        try:
            more = self._decoder.decode(b"".join(parts), final=not parts)
        except UnicodeDecodeError as error:
            line = self._line + self._text.count("\n", self._at) + error.object.count(b"\n", 0, error.start)
            raise InputError(f"{self._path}, line {line}: not UTF-8 text; save the file as UTF-8") from None
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(parts)

    def _use(self, end: int) -> None:
        self._line += self._text.count("\n", self._at, end)
        self._at = end

    def _wrong(self, problem: str, place: int) -> InputError:
        return InputError(invalid(self._path, self._line + self._text.count("\n", self._at, place), problem))


def invalid(path: Path, line: int, problem: str) -> str:
    """The message about text that is no JSON."""
    return f"{path}, line {line}: not valid JSON ({problem}); is the file cut short? Repair or delete the line"


def too_long(where: str) -> str:
    """The message about a row that is none for its length."""
    return f"{where}: longer than {LONGEST_ROW >> 20} MiB, which no row of texts is; is it damaged? Delete it"
