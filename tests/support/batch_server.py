"""Providers with batches on loopback: the interfaces of OpenAI, Anthropic and Gemini, with faults and a clock."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import dspy

Fate = Literal["ok", "late", "error", "invalid", "expired", "missing", "twice"]
Body = dict[str, Any]


@dataclass
class Batch:
    """A batch: its requests by custom id, and when it ends."""

    id: str
    kind: str
    requests: dict[str, Body]
    ends: float
    token: str | None = None
    created: float = 0.0
    results: list[Body] = field(default_factory=list)


@dataclass
class BatchServer:
    """Answers single requests at once, and batches after ``delay`` seconds of its clock.

    Args:
        reply: the text for a prompt.
        fate: what happens to a request of a batch, from the number of the batch and its prompt.
        delay: seconds that a batch takes.
        has_batches: whether there are any.
        kills: called before and after each request about batches, with its method and path.

    Attributes:
        now: the clock.
        batches: all batches.
        singles: prompts of single requests.
        billed: how often each prompt, of which sample, was processed.
    """

    reply: Callable[[str], str] = lambda prompt: "a reply"
    fate: Callable[[int, str], Fate] = lambda batch, prompt: "ok"
    delay: float = 3600.0
    has_batches: bool = True
    kills: Callable[[str, str], None] = lambda method, path: None
    now: float = field(default_factory=time.time)
    batches: list[Batch] = field(default_factory=list)
    singles: list[str] = field(default_factory=list)
    billed: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Self:
        outer, self._files, self._lock = self, dict[str, bytes](), threading.RLock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def _answer(self, body: bytes) -> None:
                path = urlsplit(self.path).path
                outer.kills(self.command, path)
                with outer._lock:
                    status, value = outer.answer(self.command, path, body)
                outer.kills(self.command, path)
                payload = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name of the base class)
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients are killed
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    async def sleep(self, seconds: float) -> None:
        """Let time pass on the server's clock."""
        self.now += seconds

    def lm(self, provider: str = "openai", model: str = "model", **options: Any) -> dspy.LM:
        settings = {"cache": False, "num_retries": 0, "max_tokens": 100, **options}
        base = {"openai": f"{self.url}/v1", "anthropic": f"{self.url}/v1", "gemini": f"{self.url}/v1beta"}[provider]
        return dspy.LM(f"{provider}/{model}", api_base=base, api_key="loopback", **settings)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.calls[f"{method} {re.sub('[0-9]+', 'N', path)}"] += 1
        if path.endswith(("/chat/completions", "/messages", ":generateContent")):
            request = json.loads(body)
            self.singles.append(prompt_in(request))
            return 200, self._completion(_kind(path), request)
        if not self.has_batches:
            return 404, {"error": {"message": "no such path"}}
        rules: list[tuple[str, Callable[[Any], Any]]] = [
            (r"POST .*/files", self._upload),
            (r"GET .*/files/([^/]+)/content", self._download),
            (r"POST .*/v1/batches", self._create_openai),
            (r"POST .*/messages/batches", self._create_anthropic),
            (r"POST .*:batchGenerateContent", self._create_gemini),
            (r"GET .*/messages/batches/([^/]+)/results", self._results_anthropic),
            (r"GET .*/batches/([^/]+)", self._status),
            (r"GET .*/batches", lambda _: self._list(path)),
        ]
        for rule, answer in rules:
            if match := re.fullmatch(rule, f"{method} {path}"):
                return 200, answer(match[1] if match.groups() else body)
        return 404, {"error": {"message": f"no such path: {path}"}}

    def _completion(self, kind: str, request: Body) -> Body:
        prompt = prompt_in(request)
        self.billed[prompt] += 1
        text, model = self.reply(prompt), str(request.get("model", "model"))
        used = len(prompt) // 4, len(text) // 4 + 1
        if kind == "anthropic":
            usage = {"input_tokens": used[0], "output_tokens": used[1]}
            content = [{"type": "text", "text": text}]
            return {"id": "msg", "type": "message", "role": "assistant", "model": model, "content": content,
                    "stop_reason": "end_turn", "usage": usage}  # fmt: skip
        if kind == "gemini":
            candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}
            usage = {"promptTokenCount": used[0], "candidatesTokenCount": used[1], "totalTokenCount": sum(used)}
            return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)}
        return {"id": "chat", "object": "chat.completion", "created": 1, "model": model, "choices": [choice],
                "usage": usage}  # fmt: skip

    def _upload(self, body: bytes) -> Body:
        name = f"file-{len(self._files) + 1}"
        self._files[name] = body.split(b"application/jsonl\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
        return {"id": name, "object": "file"}

    def _download(self, name: str) -> bytes:
        return self._files[name]

    def _create(self, kind: str, requests: dict[str, Body], token: str | None) -> Batch:
        batch = Batch(f"batch-{len(self.batches) + 1}", kind, requests, self.now + self.delay, token, self.now)
        self.batches.append(batch)
        for key, request in requests.items():
            fate = self.fate(len(self.batches), prompt_in(request))
            if fate in ("ok", "twice"):
                batch.results += [_result(kind, key, 200, self._completion(kind, request))] * (
                    2 if fate == "twice" else 1
                )
            elif fate in ("error", "invalid"):
                status = 500 if fate == "error" else 400
                batch.results.append(_result(kind, key, status, {"error": {"message": fate, "type": fate}}))
            elif fate == "expired":
                batch.results.append(_result(kind, key, None, {}))
        random.Random(len(self.batches)).shuffle(batch.results)
        return batch

    def _create_openai(self, body: bytes) -> Body:
        asked = json.loads(body)
        lines = map(json.loads, self._files[asked["input_file_id"]].splitlines())
        requests = {line["custom_id"]: line["body"] for line in lines}
        assert len({request["model"] for request in requests.values()}) == 1
        batch = self._create("openai", requests, asked["metadata"]["moa_dspy"])
        self._files[f"out-{batch.id}"] = b"\n".join(json.dumps(result).encode() for result in batch.results)
        return self._report(batch)

    def _create_anthropic(self, body: bytes) -> Body:
        asked = {item["custom_id"]: item["params"] for item in json.loads(body)["requests"]}
        return self._report(self._create("anthropic", asked, None))

    def _create_gemini(self, body: bytes) -> Body:
        asked = json.loads(body)["batch"]
        items = asked["inputConfig"]["requests"]["requests"]
        requests = {item["metadata"]["key"]: item["request"] for item in items}
        return self._report(self._create("gemini", requests, asked["displayName"]))

    def _status(self, name: str) -> Body:
        return self._report(next(batch for batch in self.batches if batch.id == name))

    def _results_anthropic(self, name: str) -> bytes:
        batch = next(batch for batch in self.batches if batch.id == name)
        return b"\n".join(json.dumps(result).encode() for result in batch.results)

    def _list(self, path: str) -> Body:
        kind = "gemini" if "v1beta" in path else "anthropic" if "messages" in path else "openai"
        listed = [self._report(batch) for batch in reversed(self.batches) if batch.kind == kind]
        return {"operations" if kind == "gemini" else "data": listed}

    def _report(self, batch: Batch) -> Body:
        ended, count = self.now >= batch.ends, len(batch.requests)
        if batch.kind == "openai":
            done = {"output_file_id": f"out-{batch.id}"} if ended else {}
            return {"id": batch.id, "status": "completed" if ended else "in_progress", "created_at": batch.created,
                    "metadata": {"moa_dspy": batch.token}, "request_counts": {"total": count}, **done}  # fmt: skip
        if batch.kind == "anthropic":
            url = f"{self.url}/v1/messages/batches/{batch.id}/results" if ended else None
            import datetime

            created = datetime.datetime.fromtimestamp(batch.created, datetime.UTC).isoformat()
            return {"id": batch.id, "processing_status": "ended" if ended else "in_progress", "created_at": created,
                    "request_counts": {"processing": count}, "results_url": url}  # fmt: skip
        state = "BATCH_STATE_SUCCEEDED" if ended else "BATCH_STATE_RUNNING"
        response = {"response": {"inlinedResponses": {"inlinedResponses": batch.results}}} if ended else {}
        about = {"state": state, "displayName": batch.token}
        return {"name": f"batches/{batch.id}", "metadata": about, "done": ended, **response}


def prompt_in(request: Body) -> str:
    """The prompt of a request in any of the three forms."""
    request = {
        key: value for key, value in request.items() if key in ("messages", "system", "contents", "systemInstruction")
    }
    return json.dumps(request, sort_keys=True)


def _kind(path: str) -> str:
    return "anthropic" if path.endswith("/messages") else "gemini" if "generateContent" in path else "openai"


def _result(kind: str, key: str, status: int | None, body: Body) -> Body:
    if kind == "openai":
        response = None if status is None else {"status_code": status, "body": body}
        return {"custom_id": key, "response": response, "error": None if status else {"code": "batch_expired"}}
    if kind == "anthropic":
        types = {200: "succeeded", None: "expired"}
        name = "invalid_request_error" if status == 400 else "api_error"
        error = {"type": "error", "error": {"type": name, "message": str(body)}}
        return {"custom_id": key, "result": {"type": types.get(status, "errored"), "message": body, "error": error}}
    about = {"metadata": {"key": key}}
    if status == 200:
        return {**about, "response": body}
    return {**about, "error": {"code": {400: 3, None: 4}.get(status, 13), "message": str(body)}}
