"""A step has its name, layer, stage, agent and target in DSPy's callbacks, and so in MLflow and OpenInference.

Both tools have their own environment, since they do not go with the tools of this project:

    uv venv /tmp/tracing && VIRTUAL_ENV=/tmp/tracing uv pip install -e . mlflow openinference-instrumentation-dspy \
        pytest pytest-xdist pytest-timeout hypothesis
    /tmp/tracing/bin/python -m pytest -n 0 tests/runtime/test_step_span.py
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

from moa_dspy import Agent, AttentionMoA
from moa_dspy.runtime.step_span import StepSpan
from moa_dspy.testing import ScriptedLM

NAMES = {
    "propose writer, layer 1",
    "propose critic, layer 1",
    "critique writer, layer 1",
    "critique writer -> critic, layer 1",
    "critique critic -> writer, layer 1",
    "critique critic, layer 1",
    "refine writer, layer 1",
    "refine critic, layer 1",
    "aggregate aggregator, layer 1",
}


def program() -> AttentionMoA:
    agents = [Agent(ScriptedLM("Paris", f"scripted/{name}"), name=name) for name in ("writer", "critic")]
    return AttentionMoA("question -> answer", agents, layers=1)


class Recorder(BaseCallback):
    def __init__(self) -> None:
        self.steps: dict[str, tuple[Any, Any]] = {}
        self._open: dict[str, Any] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if isinstance(instance, StepSpan):
            self._open[call_id] = instance, inputs["kwargs"]

    def on_module_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        assert exception is None
        if call_id in self._open:
            instance, inputs = self._open[call_id]
            self.steps[type(instance).__name__] = inputs, outputs


def test_callbacks_see_each_step_with_its_name_and_what_it_is() -> None:
    recorder = Recorder()
    moa = program()
    with dspy.context(callbacks=[recorder]):
        moa(question="Where?")
    assert recorder.steps.keys() == NAMES
    about = {"layer": 1, "stage": "critique", "agent": "critic", "target": "writer"}
    assert recorder.steps["critique critic -> writer, layer 1"] == (about, {"critique": "Paris"})
    assert recorder.steps["aggregate aggregator, layer 1"][0].keys() == {"layer", "stage", "agent"}


def test_a_failed_step_shows_its_failure_and_without_callbacks_there_is_no_span(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    silent = ScriptedLM("", "scripted/silent", num_retries=0)
    with dspy.context(callbacks=[recorder]):
        AttentionMoA("question -> answer", [ScriptedLM("Paris"), silent], layers=1, attention="none")(question="?")
    (failed,) = [outputs for name, (_, outputs) in recorder.steps.items() if name == "propose silent, layer 1"]
    assert failed.kind

    def refuse(self: StepSpan, **_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(StepSpan, "aforward", refuse)
    assert program()(question="Where?").answer == "Paris"


@pytest.mark.filterwarnings("ignore")  # of these tools
def test_mlflow_shows_the_steps_and_their_usage(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow has its own environment, see the top of this file")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.dspy.autolog()
    try:
        prediction: Any = program()(question="Where?")
        trace = mlflow.get_trace(mlflow.get_last_active_trace_id(), flush=True)
    finally:
        mlflow.dspy.autolog(disable=True)
    names = Counter(span.name for span in trace.data.spans)
    assert {f"{name}.forward" for name in NAMES} <= names.keys()
    assert trace.info.token_usage["total_tokens"] == prediction.trace.tokens.total


@pytest.mark.filterwarnings("ignore")
def test_openinference_shows_the_steps_and_their_calls() -> None:
    module = pytest.importorskip(
        "openinference.instrumentation.dspy", reason="it has its own environment, see the top of this file"
    )
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    simple = pytest.importorskip("opentelemetry.sdk.trace.export")
    exporter, provider = export.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(simple.SimpleSpanProcessor(exporter))
    instrumentor = module.DSPyInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        prediction: Any = program()(question="Where?")
    finally:
        instrumentor.uninstrument()
    spans = exporter.get_finished_spans()
    assert {f"{name}.aforward" for name in NAMES} <= {span.name for span in spans}
    kinds = Counter(span.attributes["openinference.span.kind"] for span in spans)
    assert kinds["LLM"] == prediction.trace.calls, "it records no tokens, but every call"
