"""Requests of many questions collected into batches: they are sent when every open question waits."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from dspy.lm15 import LM15Error, TimeoutError as NoReplyInTime

from moa_dspy._dspy import HttpReply, HttpRequest, Send, divert_requests
from moa_dspy.batches.journal import PRICE, Journal, SentBatch
from moa_dspy.batches.wire import BatchEntry, BatchJob, Link, Refused, Request, is_lost, link_of, may_succeed_later
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.redaction import redacted

__all__ = [
    "PRICE",
    "Batcher",
    "Batches",
    "ConfigurationError",
    "Question",
    "RunError",
    "Sending",
    "UndeliveredError",
    "current_batcher",
    "current_sending",
    "may_have_batches",
]

_TURNS: Final = 20  # of the event loop without a change, after which all questions count as waiting
_TRIES: Final = 3  # batches that a request is put into before it is sent alone
_SINGLE: Final = 100  # single requests at once
_FAILURES: Final = 20  # in a row, after which batches are given up
_REQUEST: Final = 200  # bytes around a request in a batch

Rest = Literal["single", "resubmit"]


@dataclass(frozen=True)
class Batches:
    """How provider batches are used.

    Args:
        rest: what happens to requests that a batch did not answer, because it expired, failed or was cancelled:
            ``"single"`` sends each alone, at the full price; ``"resubmit"`` puts them into further batches, and sends
            them alone after three.
        poll_seconds: time between two looks at the batches that are under way.
        sleep: waits so many seconds; for tests.

    Raises:
        ConfigurationError: if an argument is out of range.
    """

    rest: Rest = "single"
    poll_seconds: float = 30.0
    sleep: Callable[[float], Awaitable[object]] = field(default=asyncio.sleep, repr=False)

    def __post_init__(self) -> None:
        if self.rest not in get_args(Rest):
            raise ConfigurationError(f"rest={self.rest!r} is unknown; it must be one of {', '.join(get_args(Rest))}")
        if not self.poll_seconds > 0:
            raise ConfigurationError(f"poll_seconds={self.poll_seconds!r} is out of range; it must be above 0")

    @classmethod
    def of(cls, value: Batches | bool | None) -> Batches | None:
        """Return the settings of ``batch=``; None without batches."""
        if isinstance(value, cls):
            return value
        if value not in (None, True, False):
            raise ConfigurationError(f"batch={value!r} is neither True nor Batches(...)")
        return cls() if value else None


def may_have_batches(model: str) -> bool:
    """Return whether the provider of a model is one that has batches. Its server is asked when it is needed."""
    return model.partition("/")[0] in ("openai", "anthropic", "gemini")


class UndeliveredError(BaseException):
    """A request whose batch could be neither sent nor read. No adapter may treat it as an unreadable reply."""

    def __init__(self, error: RunError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Sending:
    """An LM call on its way.

    Attributes:
        sample: distinguishes equal requests that are separate samples.
        timeout: seconds for its request, if it is sent alone; None for no limit.
        price: what it costs, as a share of the price of a single call.
        begun: whether the LM was called. A task may be cancelled before it begins.
    """

    sample: object = None
    timeout: float | None = None
    price: float = 1.0
    begun: bool = False


current_sending: contextvars.ContextVar[Sending | None] = contextvars.ContextVar("moa_dspy_sending", default=None)
current_batcher: contextvars.ContextVar[Batcher | None] = contextvars.ContextVar("moa_dspy_batcher", default=None)


class Question:
    """A question that may be open: its steps under way, and those of its calls that wait for a batch."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self.is_open = True
        self.steps = self.calls = 0

    @property
    def waits(self) -> bool:
        """Return whether the question cannot continue without a batch."""
        return self.is_open and self.calls > 0 and self.calls >= self.steps

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Do not count as open within the block."""
        self._batcher.change(self, is_open=False)
        try:
            yield
        finally:
            self._batcher.change(self, is_open=True)


_question: contextvars.ContextVar[Question | None] = contextvars.ContextVar("moa_dspy_question", default=None)


@dataclass(eq=False)
class _Waiter:
    question: Question | None
    future: asyncio.Future[None]


class Batcher:
    """Collects requests, sends batches, and hands replies out. All of its work is on one event loop.

    Args:
        options: how batches are used.
        out: the file of the answers, beside which the journal is kept; None keeps it in memory.
        report: called with a line for people when a batch is sent or has ended.

    Raises:
        ConfigurationError: if the journal cannot be used.
    """

    def __init__(
        self, options: Batches, out: str | Path | None = None, report: Callable[[str], None] | None = None
    ) -> None:
        self._options, self._reporter = options, report
        self._journal = Journal(None if out is None else Path(f"{out}.batches.db"))
        self._links: dict[str, Link] = {}
        self._waiters: defaultdict[str, list[_Waiter]] = defaultdict(list)
        self._pending: dict[str, tuple[Link, bytes]] = {}
        self._open = self._waiting = self._version = 0
        self._settling: asyncio.Task[None] | None = None
        self._singles = asyncio.Semaphore(_SINGLE)
        self._alone: set[str] = set()  # keys of requests that are not put into a batch
        self._foreign: set[str] = set()  # ids of batches that were taken for a lost one, and hold other requests

    def __enter__(self) -> Batcher:
        divert_requests(_divert)
        self._token = current_batcher.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current_batcher.reset(self._token)
        self._journal.close()

    @contextlib.contextmanager
    def question(self) -> Iterator[Question]:
        """Count a question as open within the block. Batches wait for its requests."""
        question = Question(self)
        self._open += 1
        token = _question.set(question)
        try:
            yield question
        finally:
            _question.reset(token)
            self.change(question, is_open=False)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Count a step of the current question within the block. It makes one call at a time."""
        question = _question.get()
        self.change(question, steps=1)
        try:
            yield
        finally:
            self.change(question, steps=-1)

    def change(self, question: Question | None, *, steps: int = 0, calls: int = 0, is_open: bool | None = None) -> None:
        """Change the counts of a question, and send what waits if all questions wait."""
        self._version += 1
        if question is not None:
            waited, was_open = question.waits, question.is_open
            question.steps += steps
            question.calls += calls
            question.is_open = was_open if is_open is None else is_open
            self._waiting += question.waits - waited
            self._open += question.is_open - was_open
        if self._is_quiet and self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._settle(), context=contextvars.Context())

    async def send(self, request: HttpRequest, send: Send) -> HttpReply:
        """Return the reply to a request, from a batch if its server has them."""
        link, call = self._link(request, send), current_sending.get()
        if call is None:
            return await send(request)
        if link is None or link.has_batches is False:
            return await self._send_single(request, send, call)
        key = hashlib.blake2b(
            repr((request.url, call.sample)).encode() + b"\0" + request.body, digest_size=16
        ).hexdigest()
        known = self._journal.reply(key)
        while known is None and key not in self._alone:
            await self._wait(key, link, request.body)
            known = self._journal.reply(key)
        if known is not None:
            entry, call.price = known
            assert entry.status is not None
            return HttpReply(status=entry.status, reason="", headers=[], body=entry.body)
        reply = await self._send_single(request, send, call)
        if key in self._alone and not may_succeed_later(reply.status):
            self._journal.add_single(BatchEntry(key, reply.status, reply.body))
        return reply

    async def _send_single(self, request: HttpRequest, send: Send, call: Sending) -> HttpReply:
        async with self._singles:
            limit = asyncio.timeout(call.timeout)
            try:
                async with limit:
                    return await send(request)
            except TimeoutError:
                if limit.expired():
                    raise NoReplyInTime(f"no reply within {call.timeout:g} s") from None  # DSPy knows this one
                raise

    async def _wait(self, key: str, link: Link, body: bytes) -> None:
        waiter = _Waiter(_question.get(), asyncio.get_running_loop().create_future())
        if not self._waiters[key] and not self._journal.is_under_way(key):
            self._pending[key] = link, body
        self._waiters[key].append(waiter)
        self.change(waiter.question, calls=1)
        try:
            await waiter.future
        finally:
            waiters = self._waiters.get(key)
            if waiters and waiter in waiters:  # given up, such as at the end of a budget
                waiters.remove(waiter)
                self.change(waiter.question, calls=-1)
                if not waiters:
                    self._waiters.pop(key)
                    self._pending.pop(key, None)

    def _link(self, request: HttpRequest, send: Send) -> Link | None:
        link = self._links.get(request.url) or link_of(request)
        if link is not None:
            self._links[request.url] = link
            link.renew(request, send)
        return link

    @property
    def _is_quiet(self) -> bool:
        return bool(self._waiters) and self._waiting == self._open

    async def _settle(self) -> None:
        """Send and poll batches as long as all questions wait."""
        try:
            while self._is_quiet:
                version = self._version
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
                if version == self._version:
                    await self._wave()
        except BaseException as error:  # whatever it is, the waiting calls must get it
            failure = error if isinstance(error, RunError) else RunError(f"batches failed: {redacted(str(error))}")
            for key in list(self._waiters):
                self._wake(key, UndeliveredError(failure))
            if not isinstance(error, Exception):
                raise
        finally:
            self._settling = None

    async def _wave(self) -> None:
        """Send what is pending, and wait for all batches under way. Continue after transient failures."""
        failed = 0
        while True:
            try:
                links = {link.url: link for link in self._links.values()}
                await self._find_lost(links)
                for link, requests in self._chunks():
                    await self._submit(link, requests)
                for batch in self._journal.under_way(links):
                    if batch.id is not None:
                        await self._poll(links[batch.url], batch, batch.id)
                if not self._journal.under_way(links):
                    return
                failed = 0
            except (Refused, LM15Error, OSError) as error:
                failed += 1
                if failed > _FAILURES or (isinstance(error, Refused) and not error.is_transient):
                    raise RunError(f"a batch cannot be sent or read: {redacted(str(error))}") from None
            await self._options.sleep(self._options.poll_seconds)

    async def _find_lost(self, links: Mapping[str, Link]) -> None:
        """Find batches that may have been created although their id is not known, as after a kill."""
        for batch in self._journal.under_way(links):
            if batch.id is not None:
                continue
            known, link = self._journal.ids() | self._foreign, links[batch.url]
            jobs = await link.jobs() if await self._has_batches(link) else []
            found = [job for job in jobs if job.id not in known and is_lost(job, batch.token, batch.began, batch.count)]
            if found:
                nearest = min(found, key=lambda job: abs((job.created or batch.began) - batch.began))
                self._journal.created(batch.token, nearest.id)
                continue
            for key in self._journal.forget(batch.token):
                self._wake(key)

    def _chunks(self) -> list[tuple[Link, list[Request]]]:
        """Return the pending requests by server and group, in as many parts as its limits require."""
        parts: list[tuple[Link, list[Request]]] = []
        groups: defaultdict[tuple[str, str], list[Request]] = defaultdict(list)
        for key, (link, body) in self._pending.items():
            groups[link.url, link.group(body)].append(Request(key, body))
        for (url, _), requests in groups.items():
            link, size = self._links[url], 0
            for number, request in enumerate(requests):
                size += len(request.body) + _REQUEST
                if not number or len(parts[-1][1]) >= link.most or size > link.most_bytes:
                    parts.append((link, []))
                    size = len(request.body) + _REQUEST
                parts[-1][1].append(request)
        return parts

    async def _has_batches(self, link: Link) -> bool:
        """Return whether a server has batches. It is asked once."""
        if link.has_batches is None:
            try:
                await link.jobs()
                link.has_batches = True
            except Refused as error:
                if error.is_transient:
                    raise
                link.has_batches = False
                self._report(f"{link.url} has no batches ({error.status}); its requests are sent one by one")
        return link.has_batches

    async def _submit(self, link: Link, requests: Sequence[Request]) -> None:
        """Create a batch. If the server refuses it for good, its requests are sent alone."""
        keys = [request.key for request in requests]
        if not await self._has_batches(link):
            self._send_alone(keys)
            return
        token = f"moa-{secrets.token_hex(8)}"
        self._journal.begin(token, link.url, keys)
        for key in keys:
            self._pending.pop(key, None)
        try:
            id_ = await link.submit(token, requests)
        except Refused as error:
            if error.status >= 500:
                raise  # it may have been created
            self._journal.forget(token)
            if error.is_transient:
                self._pending |= {one.key: (link, one.body) for one in requests if one.key in self._waiters}
                raise
            self._report(f"a batch of {len(keys):,} requests was refused: {redacted(str(error))}")
            self._send_alone(keys)
            return
        self._journal.created(token, id_)
        self._report(f"batch {id_}: {len(keys):,} requests sent")

    def _send_alone(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._pending.pop(key, None)
            self._alone.add(key)
            self._wake(key)

    async def _poll(self, link: Link, batch: SentBatch, id_: str) -> None:
        """Look at a batch, and hand its replies out if it has ended."""
        job = await link.status(id_)
        if not job.ended:
            return
        entries = list(await link.entries(job))
        if (
            entries
            and job.token is None
            and not {entry.key for entry in entries} & set(self._journal.keys(batch.token))
        ):
            self._foreign.add(job.id)  # another program's, of the same time and size: look further
            self._journal.created(batch.token, None)
            return
        self._finish(batch, job, entries)

    def _report(self, line: str) -> None:
        if self._reporter is not None:
            self._reporter(line)

    def _finish(self, batch: SentBatch, job: BatchJob, entries: Iterable[BatchEntry]) -> None:
        keys = self._journal.keys(batch.token)
        kept: dict[str, BatchEntry] = {}
        for entry in entries:
            if entry.status is not None and not may_succeed_later(entry.status):
                kept.setdefault(entry.key, entry)
        self._journal.end(batch.token, kept.values())
        for key in keys:
            again = self._options.rest == "resubmit" and self._journal.tries(key) < _TRIES
            if key not in kept and not again:
                self._alone.add(key)
            self._wake(key)
        self._report(f"batch {job.id}: {len(kept.keys() & set(keys)):,} of {len(keys):,} requests answered")

    def _wake(self, key: str, error: UndeliveredError | None = None) -> None:
        """Let the calls that wait for a request look again."""
        for waiter in self._waiters.pop(key, ()):
            self.change(waiter.question, calls=-1)
            if not waiter.future.done():
                waiter.future.set_result(None) if error is None else waiter.future.set_exception(error)


async def _divert(request: HttpRequest, send: Send) -> HttpReply:
    batcher = current_batcher.get()
    return await send(request) if batcher is None else await batcher.send(request, send)
