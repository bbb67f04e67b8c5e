"""Prompts, rollouts and call counts are what they were, also of programs that were saved by an older version."""

import json

import pytest
from golden.architectures import PROGRAMS, RECORD, architectures, loaded, record

PINNED = json.loads(RECORD.read_text())
NOW = architectures()


@pytest.mark.parametrize("name", PINNED)
def test_an_architecture_sends_the_prompts_it_always_sent(name):
    assert record(*NOW[name]) == PINNED[name]


@pytest.mark.parametrize("name", PINNED)
def test_a_program_file_of_format_1_sends_the_prompts_it_always_sent(name):
    program, (_, inputs) = loaded(PROGRAMS / f"{name}.json"), NOW[name]
    assert record(program, inputs) == PINNED[name]
