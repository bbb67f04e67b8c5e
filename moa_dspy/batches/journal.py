"""What was sent in batches and what came back, in SQLite. Each change is one transaction."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moa_dspy.batches.wire import BatchEntry
from moa_dspy.errors import ConfigurationError

__all__ = ["PRICE", "Journal", "SentBatch"]

PRICE: Final = 0.5
"""The price of a call in a batch, as a share of that of a single call."""

_TABLES: Final = """
create table if not exists batches (
    token text primary key, url text not null, id text, began real not null, count integer not null,
    ended real
);
create table if not exists requests (
    key text primary key, token text not null, tries integer not null default 1, status integer, reply blob,
    used text
);
create index if not exists by_token on requests (token);
"""

_ALONE: Final = ""  # in place of the token of a batch


@dataclass(frozen=True)
class SentBatch:
    """A batch that has not ended.

    Attributes:
        token: our name for it.
        url: the URL of its single requests.
        id: the provider's id; None if the process ended before it was known.
        began: when it was about to be created, in seconds since 1970.
        count: number of requests.
    """

    token: str
    url: str
    id: str | None
    began: float
    count: int


class Journal:
    """The batches and replies of a run, in memory if there is no path.

    A batch is written before it is created, so that a killed process can find it by its token, and again when its id is
    known. A reply that is here is never paid again.

    Raises:
        ConfigurationError: if the file cannot be opened, or is no journal.
    """

    def __init__(self, path: Path | None) -> None:
        self._start = secrets.token_hex(8)
        try:
            if path is not None:
                path.touch(mode=0o600)  # replies are private
            self._base = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
            self._base.execute("pragma journal_mode = wal")
            self._base.execute("pragma synchronous = normal")
            self._base.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"cannot use the journal of batches {path}: {error}") from None

    def reply(self, key: str) -> tuple[BatchEntry, float] | None:
        """Return the reply to a request, and its price as a share of that of a single call; None if there is none.

        A reply that has been returned since this start costs nothing.
        """
        row = self._base.execute("select status, reply, token from requests where key = ?", (key,)).fetchone()
        if row is None or row[1] is None:
            return None
        first = self._base.execute(
            "update requests set used = ? where key = ? and used is not ?", (self._start, key, self._start)
        )
        price = 0.0 if not first.rowcount else 1.0 if row[2] == _ALONE else PRICE
        return BatchEntry(key, *row[:2]), price

    def add_single(self, entry: BatchEntry) -> None:
        """Note the reply to a request that was sent alone."""
        self._base.execute(
            "insert into requests (key, token, status, reply, used) values (?, ?, ?, ?, ?) "
            "on conflict (key) do update set "
            "token = excluded.token, status = excluded.status, reply = excluded.reply, used = excluded.used",
            (entry.key, _ALONE, entry.status, entry.body, self._start),
        )

    def is_under_way(self, key: str) -> bool:
        """Return whether a request is in a batch that has not ended."""
        query = "select 1 from requests join batches using (token) where key = ? and reply is null and ended is null"
        return self._base.execute(query, (key,)).fetchone() is not None

    def under_way(self, urls: Iterable[str]) -> list[SentBatch]:
        """Return the batches of these URLs that have not ended, the oldest first."""
        query = "select token, url, id, began, count from batches where ended is null order by began"
        wanted = set(urls)
        return [SentBatch(*row) for row in self._base.execute(query) if row[1] in wanted]

    def ids(self) -> set[str]:
        """Return the ids of all batches."""
        return {row[0] for row in self._base.execute("select id from batches where id is not null")}

    def begin(self, token: str, url: str, keys: Sequence[str]) -> None:
        """Note that a batch is about to be created."""
        batch = token, url, time.time(), len(keys)
        with self._base:
            self._base.execute("begin")
            self._base.execute("insert into batches values (?, ?, null, ?, ?, null)", batch)
            self._base.executemany(
                "insert into requests (key, token) values (?, ?) on conflict (key) do update set "
                "token = excluded.token, tries = tries + 1, status = null",
                [(key, token) for key in keys],
            )

    def created(self, token: str, id: str | None) -> None:  # noqa: A002
        """Note the id of a batch; None if it is not known after all."""
        self._base.execute("update batches set id = ? where token = ?", (id, token))

    def forget(self, token: str) -> list[str]:
        """Forget a batch that was not created, and return the keys of its requests."""
        keys = self.keys(token)
        with self._base:
            self._base.execute("begin")
            self._base.execute("delete from requests where token = ?", (token,))
            self._base.execute("delete from batches where token = ?", (token,))
        return keys

    def keys(self, token: str) -> list[str]:
        """Return the keys of the requests of a batch."""
        return [row[0] for row in self._base.execute("select key from requests where token = ?", (token,))]

    def end(self, token: str, entries: Iterable[BatchEntry]) -> None:
        """Note that a batch has ended, and the replies to keep."""
        with self._base:
            self._base.execute("begin")
            self._base.executemany(
                "update requests set status = ?, reply = ? where key = ? and token = ? and reply is null",
                [(entry.status, entry.body, entry.key, token) for entry in entries],
            )
            self._base.execute("update batches set ended = ? where token = ?", (time.time(), token))

    def tries(self, key: str) -> int:
        """Return how often a request was in a batch."""
        row = self._base.execute("select tries from requests where key = ?", (key,)).fetchone()
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Close the file."""
        self._base.close()
