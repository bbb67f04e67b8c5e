"""The page of a run in headless Chromium: finished and live, narrow and wide, light and dark, with hostile texts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.browser import CHROMIUM, Browser, browser

from moa_dspy import Agent, AttentionMoA, Trace, record_prompts, watch
from moa_dspy.run_view import event_data, run_page
from moa_dspy.testing import ScriptedLM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; apt-get install chromium"),
    pytest.mark.xdist_group("chromium"),
]

HOSTILE = (
    "</script></template><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>{{7*7}}"
)


@contextlib.asynccontextmanager
async def live(program: AttentionMoA, ended: list[Trace]) -> AsyncIterator[str]:
    """Serve the live page of one run, which starts when the page asks for its events."""
    runs: list[asyncio.Task[Any]] = []

    async def page(request: web.Request) -> web.Response:
        del request
        return web.Response(text=run_page(events="/events", stop="/stop"), content_type="text/html")

    async def events(request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with watch(queue.put_nowait):
            runs.append(asyncio.create_task(program.acall(question="Which city?")))
        event = None
        while not isinstance(event, Trace):
            event = await queue.get()
            await response.write(f"data: {event_data(event)}\n\n".encode())
        ended.append(event)
        return response

    async def stop(request: web.Request) -> web.Response:
        del request
        runs[0].cancel()
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/events", events), web.post("/stop", stop)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await asyncio.gather(*runs, return_exceptions=True)
        await runner.cleanup()


def embedded(**options: Any) -> AttentionMoA:
    agents = [Agent("local", name=name, max_tokens=8, temperature=0.7) for name in ("ada", "bob")]
    return AttentionMoA("question -> answer", agents, layers=1, **options)


async def fits(tab: Browser) -> bool:
    return bool(await tab.value("document.documentElement.scrollWidth <= innerWidth"))


def test_a_real_run_is_shown_finished_and_live(tmp_path: Path) -> None:
    async def check() -> None:
        ended: list[Trace] = []
        async with browser() as tab, live(embedded(attention="cross"), ended) as url:
            with record_prompts():
                await tab.open(url)
                await tab.until("document.querySelectorAll('#bars tr').length === 7")
            (trace,) = ended
            await tab.until("document.getElementById('progress').textContent.startsWith('Ended by layers')")
            names = "[...document.querySelectorAll('.card [data-slot=agent]')].map(a => a.textContent)"
            assert await tab.value(names) == ["ada", "bob"]
            shown = "[...document.querySelectorAll('[data-slot=critiques] [data-slot=text]')].map(a => a.textContent)"
            critiques = {step.text for step in trace.select(stage="critique")}
            assert set(await tab.value(shown)) == critiques
            for step in trace.select(stage="refine"):
                text = f"document.querySelector('[data-agent={step.agent}] [data-slot=refine] [data-slot=text]')"
                kept = f"[...{text}.childNodes].filter(a => a.nodeName !== 'DEL').map(a => a.textContent).join('')"
                assert await tab.value(kept) == step.text
            assert await tab.value("document.querySelector('#answer dd').textContent") == trace.outputs[-1]["answer"]
            assert await tab.value("document.getElementById('stop').disabled")
            saved = tmp_path / "run.html"
            saved.write_text(run_page(trace), encoding="utf-8")
            for width, dark in ((390, False), (1280, True)):
                await tab.open(saved.as_uri(), width=width, dark=dark)
                assert await fits(tab)
                await tab.screenshot(tmp_path / f"{width}.png")
            assert set(await tab.value(shown)) == critiques
            assert tab.problems == []

    asyncio.run(check())


def test_the_stop_button_ends_a_run_and_texts_stay_texts(tmp_path: Path) -> None:
    async def check() -> None:
        slow = ScriptedLM(HOSTILE, "scripted/slow", latency=60)
        fast = ScriptedLM(HOSTILE, f"scripted/{HOSTILE}")
        program = AttentionMoA("question -> answer", [Agent(fast, name=HOSTILE), Agent(slow, name="slow")], layers=1)
        ended: list[Trace] = []
        async with browser() as tab, live(program, ended) as url:
            await tab.open(url, width=390)
            await tab.until("document.querySelectorAll('#bars tr').length === 2")  # a proposal and a self-critique
            assert await fits(tab)
            await tab.value("document.getElementById('stop').click()")
            await tab.until("document.getElementById('progress').textContent.startsWith('Ended by cancelled')")
            assert ended[0].stopped_by == "cancelled"
            saved = tmp_path / "run.html"
            saved.write_text(run_page(ended[0]), encoding="utf-8")
            for open_again in (False, True):
                if open_again:
                    await tab.open(saved.as_uri(), width=390)
                assert await tab.value("document.querySelectorAll('img').length") == 0
                assert await tab.value("document.title") != "owned"
                assert HOSTILE in await tab.value(
                    "document.querySelector('[data-slot=propose] [data-slot=text]').textContent"
                )
                assert await fits(tab)
            assert tab.problems == []

    asyncio.run(check())
