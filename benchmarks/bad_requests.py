"""Requests that a server refuses: bodies of questions, and heads of requests."""

from __future__ import annotations

import json

from support.serving import PATH, asked

JSON = "Content-Type: application/json"
DEEP = 100_000
BODIES: dict[str, bytes] = {
    "no JSON": b"{",
    "no UTF-8": b'{"model": "\xff"}',
    "NaN": b'{"model": "moa/p", "messages": [], "moa": {"budget": {"usd": NaN}}}',
    "deep": b"[" * DEEP + b"]" * DEEP,
    "10 MB": b"x" * 10_000_000,
    "4 million values": b'{"model": "moa/p", "messages": [' + b"0," * 3_900_000 + b"0]}",
    "30,000 wrong messages": b'{"model": "moa/p", "messages": [' + b"0," * 30_000 + b"0]}",
    "wrong types": json.dumps(asked("?", stream="yes", n="1", moa=[])).encode(),
    "unknown keys": json.dumps(asked("?", moa={str(key): key for key in range(10_000)})).encode(),
    "n = 2": json.dumps(asked("?", n=2)).encode(),
    "no such model": json.dumps(asked("?", model="x" * 100_000)).encode(),
    "tool message": json.dumps(asked("?", messages=[{"role": "tool", "content": "?"}])).encode(),
}
HEADS: dict[str, str] = {
    "wrong host": f"POST {PATH} HTTP/1.1\r\nHost: evil.example\r\n{JSON}\r\nContent-Length: 2",
    "wrong origin": f"POST /runs HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n{JSON}\r\nContent-Length: 2",
    "form": "POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2",
    "two hosts": f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n{JSON}\r\nContent-Length: 2",
    "long header": f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {'a' * 1_000_000}",
    "no HTTP": "\x16\x03\x01",
    "method": "BREW / HTTP/1.1\r\nHost: localhost",
    "path": "GET /runs/%2e%2e%2f%00 HTTP/1.1\r\nHost: localhost",
}
