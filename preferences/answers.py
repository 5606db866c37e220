"""People's answers to the pairs of a collection folder: who is shown what, kept in SQLite, written out as label rows.

    DIR/items.jsonl          the pairs: {"id", "prompt", "a", "b", "a_version", "b_version", perhaps "gold"}
    DIR/labels.sqlite        every answer, undone ones too; WAL with synchronous=FULL, so a committed answer survives
    DIR/labels/people.jsonl  the answers that stand, written from it by `Answers.export`

A slot is one labeller's place at one pair, with the order in which the pair is shown. Of the ordinary pairs a share,
spread evenly over the file, has as many slots as the overlap says, and each of the others one. A gold pair has a known
answer and is put to everybody, spread through their work, to see who pays attention.
"""

import dataclasses
import json
import secrets
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

from ..errors import InputError
from ..results.integrity import no_link, own_folder
from ..results.store import write_jsonl
from .labels import ITEMS, LABELS, Answer, Item, folded, make_label, read_items, read_rows
from .messages import encodable

ANSWERS = get_args(Answer)
LEASE = timedelta(hours=1)  # after which an open slot may be given to another, once nothing else is left
GOLD_EVERY = 10  # one gold question in so many ordinary ones, more often in a small collection
SCHEMA = """
CREATE TABLE IF NOT EXISTS labeller (name TEXT PRIMARY KEY, session TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS slot (
    item TEXT NOT NULL, labeller TEXT NOT NULL, shown TEXT NOT NULL, opened TEXT NOT NULL, turn INTEGER NOT NULL,
    answered TEXT, answer TEXT, strength INTEGER, reasoning TEXT, PRIMARY KEY (item, labeller)
);
CREATE TABLE IF NOT EXISTS history (time TEXT, labeller TEXT, item TEXT, event TEXT);
"""


class Refused(Exception):
    """Something a labeller asked for that cannot be done; the text is shown to them."""


@dataclass(frozen=True)
class Slot:
    """A pair in front of a labeller. `draft` holds the answer that was undone, if any."""

    item: Item
    shown: str
    draft: dict[str, Any]


def checked_items(directory: Path) -> tuple[Item, ...]:
    """The pairs of a collection folder, fit to be shown; InputError names the row that is wrong."""
    path = directory / ITEMS
    seen: set[str] = set()
    for number, row in read_rows(path) if path.exists() else ():
        where = f"{path}, row {number}"
        for field in ("id", "a", "b"):
            if not _is_text(row.get(field)) or not row[field].strip():
                raise InputError(f"{where}: the field {field!r} is missing, empty or not text; fix or delete the row")
        prompt = row.get("prompt")
        if not isinstance(prompt, list) or not prompt or not all(_is_message(message) for message in prompt):
            raise InputError(f"{where}: the prompt is not a list of messages with role and content; repair the row")
        if row.get("gold") not in (None, "a", "b"):
            raise InputError(f"{where}: gold is {row['gold']!r}; give 'a' or 'b', or leave it out")
        if row["id"] in seen:
            raise InputError(f"{where}: the id {row['id']!r} is there twice; give each pair an id of its own")
        seen.add(row["id"])
    return tuple(read_items(directory))


class Answers:
    """The answers of one collection folder. One process has it open at a time; its threads share it."""

    def __init__(self, directory: Path, items: Sequence[Item], overlap: int, overlap_share: float = 1.0):
        self.directory = directory
        self.items = {item.id: item for item in items}
        self._ordinary = [item.id for item in items if not item.gold]
        # a pair keeps its number of labellers when pairs are added behind it
        shared = [int((n + 1) * overlap_share) > int(n * overlap_share) for n in range(len(self._ordinary))]
        self._wanted = {
            item: overlap if is_shared else 1 for item, is_shared in zip(self._ordinary, shared, strict=True)
        }
        self._gold = [item.id for item in items if item.gold]
        self._lock = threading.RLock()
        path = no_link(directory / "labels.sqlite")
        for ending in ("-wal", "-shm", "-journal"):
            no_link(path.with_name(path.name + ending))
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{path} cannot be opened ({error}); free space if the disk is full, "
                "or move the file aside if it is damaged (nothing was written to it)"
            ) from None

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _write(self):
        """A transaction that is on the disk when the block ends; a full or failing disk undoes it and is told."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise Refused(
                        f"This step was not saved, for the disk could not be written ({error}). Free some space, then "
                        "try again; all earlier answers are kept."
                    ) from None
                raise

    def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # Who is labelling

    def start(self, name: str, take_over: bool = False) -> str | None:
        """A new session for a name, which ends its session in any other window.

        None if the name has a session already and `take_over` does not say to end that.
        """
        with self._write() as db:
            if not take_over and db.execute("SELECT 1 FROM labeller WHERE name = ?", (name,)).fetchone():
                return None
            session = secrets.token_urlsafe(24)
            db.execute("INSERT OR REPLACE INTO labeller VALUES (?, ?)", (name, session))
            return session

    def leave(self, name: str) -> None:
        """End a labeller's session; slots and answers stay."""
        with self._write() as db:
            db.execute("DELETE FROM labeller WHERE name = ?", (name,))

    def labeller(self, session: str) -> str | None:
        """The name that a session belongs to."""
        rows = self._read("SELECT name FROM labeller WHERE session = ?", session)
        return rows[0]["name"] if rows else None

    def known_as(self, name: str) -> str:
        """The name under which a labeller is here already, in whatever case or width it was written; else this one."""
        rows = self._read("SELECT name FROM labeller UNION SELECT labeller FROM slot ORDER BY 1")
        return next((row["name"] for row in rows if folded(row["name"]) == folded(name)), name)

    # Slots

    def next(self, labeller: str) -> Slot | None:
        """The slot in front of a labeller: the one left open last, or a new one; None if nothing is left for them."""
        with self._write() as db:
            row = self._open_slot(db, labeller)
            if row is None and (item := self._choose(db, labeller)) is not None:
                db.execute(
                    "INSERT INTO slot (item, labeller, shown, opened, turn) VALUES (?, ?, ?, ?, ?)",
                    (item, labeller, _shown(item, labeller), _now(), self._turn(db)),
                )
                row = self._open_slot(db, labeller)
        if row is None:
            return None
        draft = {field: row[field] for field in ("answer", "strength", "reasoning")}
        return Slot(self.items[row["item"]], row["shown"], draft)

    def _open_slot(self, db: sqlite3.Connection, labeller: str) -> sqlite3.Row | None:
        query = "SELECT * FROM slot WHERE labeller = ? AND answered IS NULL ORDER BY turn DESC"
        # A pair that has been taken out of items.jsonl since is passed over.
        return next((row for row in db.execute(query, (labeller,)) if row["item"] in self.items), None)

    def _turn(self, db: sqlite3.Connection) -> int:
        return db.execute("SELECT coalesce(max(turn), 0) + 1 FROM slot").fetchone()[0]

    def _choose(self, db: sqlite3.Connection, labeller: str) -> str | None:
        """A pair for a new slot: gold when it is due, else one that others have begun, in the file's order."""
        taken: dict[str, int] = {}
        mine = set()
        for row in db.execute("SELECT item, labeller FROM slot"):
            taken[row["item"]] = taken.get(row["item"], 0) + 1
            mine |= {row["item"]} if row["labeller"] == labeller else set()
        free = [i for i in self._ordinary if i not in mine and taken.get(i, 0) < self._wanted[i]]
        gold = [i for i in self._gold if i not in mine]
        had = sum(item in mine for item in self._ordinary)
        if gold and (had >= self._gold_due(labeller, len(self._gold) - len(gold)) or not free):
            return gold[0]
        if free:
            return max(free, key=lambda item: taken.get(item, 0))  # the first of the largest
        return self._give_away(db, labeller, mine)

    def _gold_due(self, labeller: str, asked: int) -> int:
        """Ordinary pairs after which a labeller gets the next gold question, `asked` of them having come before."""
        every = max(1, min(GOLD_EVERY, len(self._ordinary) // len(self._gold)))
        # Not at every tenth place, or it could be guessed.
        return asked * every + int.from_bytes(sha256(f"{labeller}/{asked}".encode()).digest()[:4]) % every

    def _give_away(self, db: sqlite3.Connection, labeller: str, mine: set[str]) -> str | None:
        """Take back the pair that somebody opened longest ago and never answered, if its lease is over."""
        before = (datetime.now(UTC) - LEASE).isoformat()
        query = "SELECT * FROM slot WHERE answered IS NULL AND opened < ? AND labeller != ? ORDER BY opened"
        for row in db.execute(query, (before, labeller)).fetchall():
            if row["item"] in self._ordinary and row["item"] not in mine:
                db.execute("DELETE FROM slot WHERE item = ? AND labeller = ?", (row["item"], row["labeller"]))
                self._log(db, row["labeller"], row["item"], {"event": "given away", "to": labeller})
                return row["item"]
        return None

    # Answers

    def answer(self, labeller: str, item: str, side: str, strength: int | None, reasoning: str) -> None:
        """Store an answer; it is on the disk when this returns.

        side: "left", "right", "tie", "both_bad" or "skip". The same answer sent twice, as after a lost connection, is
        stored once. Refused if the labeller has answered the pair otherwise, or it was given to somebody else.
        """
        with self._write() as db:
            row = db.execute("SELECT * FROM slot WHERE item = ? AND labeller = ?", (item, labeller)).fetchone()
            if row is None:
                raise Refused("This pair was given to somebody else after a long pause. Here is the next one.")
            given = row["shown"][("left", "right").index(side)] if side in ("left", "right") else side
            values = {"answer": given, "strength": strength if given in "ab" else None, "reasoning": reasoning}
            if row["answered"]:
                if all(row[field] == value for field, value in values.items()):
                    return
                raise Refused("You have answered this pair already, perhaps in another window; undo changes an answer.")
            db.execute(
                "UPDATE slot SET answered = ?, turn = ?, answer = ?, strength = ?, reasoning = ? "
                "WHERE item = ? AND labeller = ?",
                (_now(), self._turn(db), *values.values(), item, labeller),
            )
            self._log(db, labeller, item, {"event": "answered", "shown": row["shown"], **values})

    def undo(self, labeller: str) -> None:
        """Open the labeller's last answer again; what it was stays in the history and as the slot's draft."""
        with self._write() as db:
            query = "SELECT item FROM slot WHERE labeller = ? AND answered IS NOT NULL ORDER BY turn DESC"
            row = next((row for row in db.execute(query, (labeller,)) if row["item"] in self.items), None)
            if row is None:
                raise Refused("There is nothing to undo.")
            db.execute(
                "UPDATE slot SET answered = NULL, opened = ?, turn = ? WHERE item = ? AND labeller = ?",
                (_now(), self._turn(db), row["item"], labeller),
            )
            self._log(db, labeller, row["item"], {"event": "undone"})

    def _log(self, db: sqlite3.Connection, labeller: str, item: str, event: dict[str, Any]) -> None:
        db.execute("INSERT INTO history VALUES (?, ?, ?, ?)", (_now(), labeller, item, json.dumps(event)))

    def progress(self, labeller: str) -> dict[str, int]:
        """Counts: answers of this labeller, pairs still open to them, answers of all, and answers wanted of all."""
        rows = [row for row in self._read("SELECT item, labeller, answered FROM slot") if row["item"] in self.items]
        taken: dict[str, int] = {}
        for row in rows:
            taken[row["item"]] = taken.get(row["item"], 0) + 1
        mine = {row["item"]: bool(row["answered"]) for row in rows if row["labeller"] == labeller}
        free = sum(i not in mine and taken.get(i, 0) < self._wanted[i] for i in self._ordinary)
        gold = sum(i not in mine for i in self._gold)
        ordinary = sum(bool(row["answered"]) for row in rows if row["item"] not in self._gold)
        return {
            "done": sum(mine.values()),
            "left": free + gold + sum(not answered for answered in mine.values()),
            "all_done": ordinary,
            "all_wanted": sum(self._wanted.values()),
        }

    # Label rows

    def rows(self) -> list[dict[str, Any]]:
        """The answers that stand as label rows, oldest first."""
        query = "SELECT * FROM slot WHERE answered IS NOT NULL ORDER BY answered"
        return [_label_row(self.items[row["item"]], row) for row in self._read(query) if row["item"] in self.items]

    def export(self) -> Path:
        """Write the answers that stand to labels/people.jsonl."""
        path = self.directory / LABELS / "people.jsonl"
        with self._lock:
            try:
                own_folder(path.parent)
                write_jsonl(path, self.rows())
            except OSError as error:
                raise InputError(
                    f"{path} cannot be written ({error.strerror}); free space and start again: "
                    f"every answer is kept in {self.directory / 'labels.sqlite'}"
                ) from None
        return path


def _shown(item: str, labeller: str) -> str:
    """The order in which a labeller sees a pair: either one for half of them, and the same every time."""
    return ("ab", "ba")[sha256(f"{labeller}/{item}/shown".encode()).digest()[0] % 2]


def _label_row(item: Item, slot: sqlite3.Row) -> dict[str, Any]:
    """The label row of an answer that stands."""
    label = make_label(
        item,
        slot["answer"],
        slot["labeller"],
        slot["shown"],
        reasoning=slot["reasoning"] or "",
        strength=slot["strength"],
    )
    return dataclasses.asdict(dataclasses.replace(label, timestamp=slot["answered"]))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(value.get(field)) for field in ("role", "content"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and encodable(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
