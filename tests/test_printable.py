"""What a hostile file or model writes cannot steer a terminal or a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from moa_dspy import Agent, AttentionMoA, ConfigurationError
from moa_dspy.cli import main
from moa_dspy.json_safe import json_text, printable
from moa_dspy.optimizers.report.page import render
from moa_dspy.testing import ScriptedLM
from moa_dspy.trace import Trace

HOSTILE = [
    "\x9b2J", "\x9d0;title\x9c", "\x90q\x9c", "\x85", "\x80", "\x1b[2J", "\x1b]8;;http://evil\x07", "\x07", "\x08",
    "\r", "\x7f", "\x00", "\u202e", "\u202d", "\u202a", "\u202b", "\u202c", "\u2066", "\u2067", "\u2068", "\u2069",
    "\u2028", "\u2029", "\ufff9", "\U000e0001", "\u206a",
]  # fmt: skip
NEVER = set("".join(HOSTILE)) - set("2J0;titleq[]8http://evil")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_character_that_steers_is_removed_from_text_and_escaped_in_json(text: str):
    assert not NEVER & set(printable(f"a{text}b"))
    written = json_text({f"k{text}": [f"a{text}b"]})
    assert not NEVER & set(written)
    assert json.loads(written) == {f"k{text}": [f"a{text}b"]}


@pytest.mark.parametrize(
    "text", ["Grüße", "שלום", "مرحبا", "日本語", "a\tb\nc", "👩‍👩‍👧", "e\u0301", "\u200f", "x = 1; y"]
)
def test_other_text_stays(text: str):
    assert printable(text) == text
    assert text.replace("\t", "\\t").replace("\n", "\\n") in json_text(text)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "utf-16"])
@pytest.mark.parametrize("text", [*HOSTILE, "Grüße", "日本語", "👩‍👩‍👧", "plain"])
def test_json_loses_nothing_in_any_encoding_of_a_terminal(text: str, encoding: str):
    written = json_text([text], encoding=encoding)
    assert json.loads(written.encode(encoding).decode(encoding)) == [text]
    assert not NEVER & set(written)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda part: st.lists(part) | st.dictionaries(st.text(), part),
    )
)
def test_json_keeps_every_value_and_can_be_written_anywhere(value: Any):
    written = json_text(value)
    assert json.loads(written) == value
    assert printable(written) == written
    written.encode()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A program file with every hostile character wherever a text is allowed."""
    text = "".join(HOSTILE)
    program = AttentionMoA("question -> answer", [Agent(ScriptedLM("x", "openai/x"), name="a", persona=text)], layers=1)
    program.propose.demos = [{"question": text, "answer": text}]  # type: ignore[union-attr]
    path = tmp_path / "hostile.json"
    program.save(path)
    content = json.loads(path.read_text())
    content["task"]["instructions"] = content["architecture"]["agents"][0]["name"] = f"n{text}"
    content["predictors"]["propose"]["signature"]["instructions"] = text
    content["versions"] = {text: text}
    content["provenance"] = {"method": text, "metric": text, "date": "2026-01-01T00:00:00Z", "settings": {text: text}}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "command",
    [["show", "{}"], ["show", "{}", "--json"], ["plan", "hi", "--program", "{}"], ["plan", "--json", "-p", "{}"],
     ["ask", "--program", "{}"], ["ask", "hi", "-p", "{}"], ["plan", "hi", "--program", "{}", "--input", "\x9b=1"]],
)  # fmt: skip
def test_no_command_prints_them(command: list[str], hostile: Path, capsys: pytest.CaptureFixture[str]):
    main([part.format(hostile) for part in command])
    printed = capsys.readouterr()
    assert printed.out + printed.err
    assert not NEVER & set(printed.out + printed.err)


def test_show_in_json_keeps_them(hostile: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["show", str(hostile), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["instructions"] == f"n{''.join(HOSTILE)}"


def test_a_page_does_not_hold_them(hostile: Path, tmp_path: Path):
    assert main(["report", str(hostile), "--out", str(tmp_path / "page.html"), "--title", "".join(HOSTILE)]) == 0
    assert not NEVER & set((tmp_path / "page.html").read_bytes().decode())
    assert not NEVER & set(render([], "".join(HOSTILE)))


@pytest.mark.parametrize("name", ["a\ud800", "\udfffb", "x\ud83dy"])
def test_a_lone_surrogate_in_a_name_harms_nothing(name: str, tmp_path: Path):
    lm = ScriptedLM("42")
    program = AttentionMoA("question -> answer", [Agent(lm, name=name, persona=name), lm], layers=1)
    trace = program(question="?").trace
    assert Trace.from_json(trace.to_json()) == trace
    trace.summary(steps=True).encode()
    assert {step.agent for step in trace.steps if step.stage == "propose"} == {
        spec.name for spec in program.architecture.agents
    }
    program.architecture.model_dump_json()
    program.plan(question="?").to_json()


def test_names_that_only_differ_in_surrogates_are_equal():
    with pytest.raises(ConfigurationError, match="must differ"):
        AttentionMoA("question -> answer", [Agent(ScriptedLM("x"), name=name) for name in ("a\ud800", "a\ud801")])
