"""Program files: the same program in a process that knows nothing, or one line that says why not."""

from __future__ import annotations

import copy
import functools
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import dspy
import numpy as np
import pydantic
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings, strategies as st

import moa_dspy
from moa_dspy import Agent, AttentionMoA, ConfigurationError, ProgramFileError, load, single_model
from moa_dspy.files.program_file import FORMAT, FORMAT_VERSION, digest_of
from moa_dspy.files.provenance import Provenance
from moa_dspy.testing import ScriptedLM, prompt_of


class Line(pydantic.BaseModel):
    """One line of a bill."""

    item: str = pydantic.Field(description="as printed")
    price: float = pydantic.Field(gt=0)
    kind: Literal["food", "other"] = "other"


class Bill(pydantic.BaseModel):
    lines: list[Line]
    most: Line | None = None
    day: date | None = None


class ReadBill(dspy.Signature):
    """Read the bill, "exactly" as it is: ünïcode, {braces} and all."""

    text: str = dspy.InputField(desc="the scanned text")
    hint: str | None = dspy.InputField(default=None)
    bill: Bill = dspy.OutputField(desc="what it says")
    total: float = dspy.OutputField(ge=0)
    verdict: Literal["paid", "open"] = dspy.OutputField()


class Chat(dspy.Signature):
    history: dspy.History = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


BILL = {"lines": [{"item": "Tea", "price": 2.5, "kind": "food"}], "most": None, "day": "2025-01-02"}
REPLIES: dict[str, Any] = {
    "reasoning": "because", "bill": BILL, "total": 2.5, "verdict": "open", "improved": True, "critique": "Fine.",
    "answer": "42", "count": 7,
}  # fmt: skip


def reply(request: Any) -> str:
    """Whatever is asked for, in DSPy's format, or as a text of its own that depends on the prompt."""
    from moa_dspy.testing import _asked_fields

    fields = _asked_fields(request)
    blocks = [f"[[ ## {name} ## ]]\n{as_text(REPLIES[name])}" for name in fields]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"]) if fields else f"{len(prompt_of(request)) % 97} bottles"


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def models() -> dict[str, dspy.BaseLM]:
    return {name: ScriptedLM(reply, model=name) for name in ("openai/first", "openai/second")}


def prompts_of(program: AttentionMoA, lms: dict[str, Any], inputs: dict[str, Any]) -> list[str]:
    """Everything that the models get to read in a run, call by call."""
    program(**inputs)
    requests = [(name, request) for name, lm in lms.items() for request in lm.requests]
    return sorted(f"{name} {request.config} {request.system!r} {request.messages!r}" for name, request in requests)


def plain_program(lms: dict[str, dspy.BaseLM]) -> AttentionMoA:
    first, second = lms.values()
    return AttentionMoA("question -> answer", [first, Agent(second, temperature=0.3, persona="You are terse.")])


def typed_program(lms: dict[str, dspy.BaseLM]) -> AttentionMoA:
    first, second = lms.values()
    agents = [Agent(first, name="one", max_tokens=50), Agent(second, name="two"), Agent(second, name="three")]
    program = AttentionMoA(
        ReadBill, agents, layers=3, aggregator=Agent(second, temperature=0.1), attention=1, shared_prompts=False
    )
    bill = Bill(lines=[Line(item="Milk", price=1)], day=date(2024, 5, 6))
    for number, (_, predictor) in enumerate(program.named_predictors()):
        signature: Any = predictor.signature
        predictor.signature = signature.with_instructions(f"Tuned {number}.\n{signature.instructions} «é»\t\u2028")
        predictor.demos = [
            dspy.Example(text="Milk 1", reasoning="r", bill=bill, total=1.0, verdict="paid", improved=True)
        ]
    return program


def chat_program(lms: dict[str, dspy.BaseLM]) -> AttentionMoA:
    program = AttentionMoA(Chat, list(lms.values()), attention="cross", residual="none")
    demo = {"question": "q", "answer": "a", "history": dspy.History(messages=[{"question": "x", "answer": "y"}])}
    program.propose.demos = [demo]  # type: ignore[union-attr]
    return program


HISTORY = dspy.History(messages=[{"question": "1 + 1?", "answer": "2"}])
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (plain_program, {"question": "How many?"}),
    "typed": (typed_program, {"text": "Tea 2.50"}),
    "chat": (chat_program, {"question": "And then?", "history": HISTORY}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_loaded_program_sends_the_same_prompts(case: str, tmp_path: Path):
    make, inputs = CASES[case]
    before, after = models(), models()
    program = make(before)
    program.save(tmp_path / "program.json")
    loaded = moa_dspy.load(tmp_path / "program.json", lms=after)
    assert loaded.architecture == program.architecture
    assert prompts_of(loaded, after, inputs) == prompts_of(program, before, inputs)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "program.json").read_bytes()


IN_A_NEW_PROCESS = """
import json, sys
import dspy, moa_dspy
from moa_dspy.testing import ScriptedLM, _asked_fields, prompt_of
replies = json.loads(sys.argv[2])

def reply(request):
    fields = _asked_fields(request)
    blocks = [f"[[ ## {n} ## ]]\\n{replies[n]}" for n in fields]
    return "\\n\\n".join([*blocks, "[[ ## completed ## ]]"]) if fields else f"{len(prompt_of(request)) % 97} bottles"

results = []
for path, inputs in json.loads(sys.argv[1]):
    if "history" in inputs:
        inputs["history"] = dspy.History(**inputs["history"])
    lms = {name: ScriptedLM(reply, model=name) for name in ("openai/first", "openai/second")}
    program = moa_dspy.load(path, lms=lms)
    program(**inputs)
    requests = [(name, request) for name, lm in lms.items() for request in lm.requests]
    prompts = sorted(f"{name} {r.config} {r.system!r} {r.messages!r}" for name, r in requests)
    results.append([program.architecture.model_dump(mode="json"), prompts])
print(json.dumps(results))
"""


@pytest.mark.slow
def test_a_process_that_knows_nothing_sends_the_same_prompts(tmp_path: Path):
    expected, jobs = [], []
    for case, (make, inputs) in CASES.items():
        lms = models()
        program = make(lms)
        program.save(tmp_path / f"{case}.json")
        jobs.append(
            [str(tmp_path / f"{case}.json"), pydantic.TypeAdapter(dict[str, Any]).dump_python(inputs, mode="json")]
        )
        expected.append([program.architecture.model_dump(mode="json"), prompts_of(program, lms, inputs)])
    replies = {name: as_text(value) for name, value in REPLIES.items()}
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, json.dumps(jobs), json.dumps(replies)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for case, new, old in zip(CASES, json.loads(done.stdout), expected, strict=True):
        assert new[0] == old[0], case
        assert new[1] == old[1], case


def test_a_program_is_saved_with_the_instructions_that_its_task_has_now(tmp_path: Path):
    class Task(dspy.Signature):
        """Old."""

        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    before = digest_of(AttentionMoA(Task, [ScriptedLM("x", "scripted/a")], layers=1))
    Task.instructions = "New text."
    program = AttentionMoA(Task, [ScriptedLM("x", "scripted/a")], layers=1)
    program.save(tmp_path / "program.json")
    assert load(tmp_path / "program.json", lms={"scripted/a": ScriptedLM("x")}).task.instructions == "New text."
    assert digest_of(program) != before


def test_the_loaded_types_read_answers_as_the_original_ones_do(tmp_path: Path):
    program = typed_program(models())
    program.save(tmp_path / "program.json")
    lms = models()
    answer = moa_dspy.load(tmp_path / "program.json", lms=lms)(text="Tea 2.50")
    assert answer.bill.lines[0].price == 2.5
    assert answer.bill.day == date(2025, 1, 2)
    assert answer.verdict == "open"


def test_the_file_is_json_with_format_versions_and_nothing_of_the_connection(tmp_path: Path):
    secret = {
        "api_key": "sk-verysecret", "api_base": "https://internal.example/v1",
        "extra_headers": {"x-token": "headersecret"}, "headers": {"y": "othersecret"},
    }  # fmt: skip
    lm = dspy.LM("openai/gpt-4.1", temperature=0.7, top_p=0.9, **secret)
    program = AttentionMoA("question -> answer", [lm, Agent(lm, name="other")], aggregator=lm)
    program.set_lm(lm.copy(rollout_id=3))
    program.save(tmp_path / "program.json")
    text = (tmp_path / "program.json").read_text()
    content = json.loads(text)
    assert content["format"] == FORMAT
    assert content["format_version"] == FORMAT_VERSION
    assert {"moa-dspy", "dspy", "python"} <= content["versions"].keys()
    assert content["architecture"]["agents"][0]["options"] == {"top_p": 0.9}
    for word in ("secret", "internal.example", "api_", "headers", "pickle", "rollout"):
        assert word not in text.replace("cloudpickle", ""), word


def damaged(tmp_path: Path, content: Any) -> ProgramFileError:
    path = tmp_path / "damaged.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ProgramFileError) as caught:
        moa_dspy.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    AttentionMoA("question -> answer", ["openai/first", "openai/second"]).save(tmp_path / "good.json")
    return json.loads((tmp_path / "good.json").read_text())


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, content: dict[str, Any]):
    text = json.dumps(content)
    for end in range(0, len(text), max(1, len(text) // 60)):
        damaged(tmp_path, text[:end])


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "5", "{}", '"x"', "{", "\ufeff{}", "[" * 100_000, '{"format": NaN}', r'{"x": "\ud800"}']
)
def test_what_is_no_program_is_refused(tmp_path: Path, text: str):
    damaged(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    (tmp_path / "binary.json").write_bytes(b"\x80\x04\x95pickle")
    with pytest.raises(ProgramFileError, match="damaged or not JSON"):
        moa_dspy.load(tmp_path / "binary.json")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    with pytest.raises(ProgramFileError, match="cannot read"):
        moa_dspy.load(tmp_path / "absent.json")
    with pytest.raises(ProgramFileError, match="cannot read"):
        moa_dspy.load(tmp_path)


@pytest.mark.parametrize("version", [None, "1", 0, -1, 1.5, True])
def test_a_version_that_is_none_is_refused(tmp_path: Path, content: dict[str, Any], version: Any):
    damaged(tmp_path, {**content, "format_version": version})


def test_a_newer_file_says_upgrade(tmp_path: Path, content: dict[str, Any]):
    assert "upgrade" in str(damaged(tmp_path, {**content, "format_version": FORMAT_VERSION + 1}))


def test_a_foreign_file_says_what_it_is_not(tmp_path: Path, content: dict[str, Any]):
    assert "not a moa-dspy program" in str(damaged(tmp_path, {**content, "format": "other"}))
    state = tmp_path / "dspy.json"
    dspy.Predict("question -> answer").save(state)
    assert "not a moa-dspy program" in str(damaged(tmp_path, state.read_text()))


def test_predictors_of_another_architecture_are_refused_by_both_loads(tmp_path: Path, content: dict[str, Any]):
    other = copy.deepcopy(content)
    del other["predictors"]["synthesize"]
    assert "other predictors" in str(damaged(tmp_path, other))
    program = AttentionMoA("question -> answer", ["openai/first"], layers=1, attention="none")
    with pytest.raises(ProgramFileError, match=r"use moa_dspy\.load"):
        program.load(tmp_path / "good.json")


def test_prompts_of_another_task_are_refused(tmp_path: Path, content: dict[str, Any]):
    for task in ("question -> reply", "query -> answer"):
        other = AttentionMoA(task, ["openai/first", "openai/second"])
        with pytest.raises(ProgramFileError, match=r"is for another task: its .* use moa_dspy\.load"):
            other.load(tmp_path / "good.json")


@pytest.mark.parametrize(
    ("where", "what", "says"),
    [
        (("task", "inputs"), None, "task.inputs: input should be a valid object"),
        (("task", "outputs"), {}, "task.outputs: object should have at least 1 item"),
        (("task", "name"), 5, "task.name: input should be a valid string"),
        (("task", "inputs", "question"), "x", "task.inputs.question: input should be a valid object"),
        (("task", "inputs", "question", "is"), {"type": 5}, "{'type': 5} is not a type of a field"),
        (("task", "inputs", "question", "is"), {"type": "list", "of": 5}, "is not a type of a field"),
        (("task", "outputs", "answer", "extra"), {}, "task.outputs.answer.extra.prefix is missing"),
        (("predictors", "propose"), None, "predictors.propose: input should be a valid object"),
        (("predictors", "propose", "demos"), 3, "predictors.propose.demos: input should be a valid list"),
        (
            ("predictors", "propose", "signature", "fields"),
            [None],
            "predictors.propose.signature.fields.0: input should",
        ),
        (("architecture",), [], "architecture: input should be a valid object"),
        (("versions",), 1, "versions: input should be a valid object"),
    ],
)
def test_damage_is_told_with_its_place_by_whoever_reads_the_file(
    tmp_path: Path, content: dict[str, Any], where: tuple[str, ...], what: Any, says: str
):
    from moa_dspy.cli.views.program import described
    from moa_dspy.files.program_file import SavedProgram

    functools.reduce(dict.__getitem__, where[:-1], content)[where[-1]] = what
    assert says in str(damaged(tmp_path, content))
    with pytest.raises(ProgramFileError) as shown:
        described(SavedProgram.read(tmp_path / "damaged.json"))
    assert says in str(shown.value)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(node for key, part in inner for node in nodes(part, (*path, key)))]


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.sampled_from([["x"], {"x": 1}, {"type": "str"}, "none", "openai/gpt-5", 10**400, "\ud800", "local/absent.gguf"]),
)  # fmt: skip


@functools.cache
def typed_file() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "good.json"
        typed_program(models()).save(path)
        return path.read_text()


# Without shrinking: each try loads a program, and the change that broke one is told anyway.
@settings(
    max_examples=80,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
@pytest.mark.slow
def test_whatever_is_changed_in_a_file_it_loads_or_is_refused_in_one_line(tmp_path: Path, data: st.DataObject):
    content = json.loads(typed_file())
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([node for node in nodes(content) if node]))
        parent: Any = content
        for key in path[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[path[-1]] = data.draw(JUNK)
        else:
            del parent[path[-1]]
        note(f"changed: {path}")
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(content))
    try:
        loaded = moa_dspy.load(file)
    except ConfigurationError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)
    else:
        loaded.save(tmp_path / "saved.json")


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (("architecture", "agents", 0, "options"), {"api_base": "https://evil.example"}),
        (("architecture", "agents", 0, "api_base"), "https://evil.example"),
        (("architecture", "agents", 0, "options"), {"engine": "litellm"}),
    ],
)
def test_a_file_cannot_bring_an_address_for_the_users_key(
    tmp_path: Path, content: dict[str, Any], where: tuple[Any, ...], what: Any
):
    parent: Any = content
    for key in where[:-1]:
        parent = parent[key]
    parent[where[-1]] = what
    damaged(tmp_path, content)


def test_a_file_cannot_set_anything_else_on_a_predictor(tmp_path: Path, content: dict[str, Any]):
    content["predictors"]["propose"] |= {
        "config": {"api_base": "https://evil.example"}, "callbacks": ["x"], "acall": 1,
        "lm": {"model": "openai/evil", "api_base": "https://evil.example"},
    }  # fmt: skip
    content["task"]["outputs"]["answer"]["extra"]["__dspy_field_type"] = "input"
    (tmp_path / "changed.json").write_text(json.dumps(content))
    program = moa_dspy.load(tmp_path / "changed.json")
    assert program.propose.config == {}  # type: ignore[union-attr]
    assert program.propose.lm is None  # type: ignore[union-attr]
    assert "acall" not in vars(program.propose)
    assert list(program.task.output_fields) == ["answer"]


def test_a_refused_file_changes_nothing_in_the_program(tmp_path: Path, content: dict[str, Any]):
    program = AttentionMoA("question -> answer", ["openai/first", "openai/second"])
    before = program.dump_state()
    content["predictors"]["propose"]["signature"]["instructions"] = "Changed."
    content["predictors"]["synthesize"]["demos"] = 5
    (tmp_path / "changed.json").write_text(json.dumps(content))
    with pytest.raises(ProgramFileError):
        program.load(tmp_path / "changed.json")
    assert program.dump_state() == before


def test_load_sets_prompts_and_demos_and_leaves_the_models_alone(tmp_path: Path):
    tuned, plain = plain_program(models()), plain_program(models())
    tuned.propose.demos = [{"question": "q", "answer": "a"}]  # type: ignore[union-attr]
    tuned.save(tmp_path / "program.json")
    follows = ScriptedLM("x").copy(rollout_id=1)
    plain.set_lm(follows)
    plain.load(tmp_path / "program.json")
    assert plain.propose.demos == [{"question": "q", "answer": "a"}]  # type: ignore[union-attr]
    assert plain.propose.lm is follows  # type: ignore[union-attr]


def test_lms_are_given_by_agent_name_or_by_model_and_names_win(tmp_path: Path):
    AttentionMoA(
        "question -> answer",
        [Agent("openai/first", name="one"), Agent("openai/first", name="two", temperature=0.5)],
        aggregator=Agent("openai/judge", name="judge"),
    ).save(tmp_path / "program.json")
    shared, own, judge = (
        ScriptedLM("s", "openai/first"),
        ScriptedLM("o", "other/model"),
        ScriptedLM("j", "openai/judge"),
    )
    loaded = moa_dspy.load(tmp_path / "program.json", lms={"openai/first": shared, "two": own, "judge": judge})
    assert [agent.lm for agent in loaded.agents] == [shared, own]
    assert loaded.agents[1].temperature == 0.5
    assert loaded.aggregator is not None
    assert loaded.aggregator.lm is judge


def test_a_given_lm_brings_the_connection_and_the_file_the_sampling(tmp_path: Path):
    AttentionMoA("question -> answer", [dspy.LM("openai/first", temperature=0.4, top_p=0.5)]).save(tmp_path / "p.json")
    lm = ScriptedLM("42", "openai/first", top_p=1.0)
    loaded = moa_dspy.load(tmp_path / "p.json", lms={"openai/first": lm})
    loaded(question="?")
    assert {(request.config.temperature, request.config.top_p) for request in lm.requests} == {(0.4, 0.5)}


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path, content: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="is no mapping; give lms="):
        moa_dspy.load(tmp_path / "good.json", lms=[ScriptedLM("x")])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"no agent or model nobody; it has: first \(openai/first\), second"):
        moa_dspy.load(tmp_path / "good.json", lms={"nobody": ScriptedLM("x")})


@pytest.mark.parametrize("options", [{"save_program": True}, {"modules_to_serialize": [json]}])
def test_pickle_is_refused(tmp_path: Path, options: dict[str, Any]):
    program = plain_program(models())
    with pytest.raises(ConfigurationError, match="never pickled"):
        program.save(tmp_path / "program", **options)
    with pytest.raises(ConfigurationError, match="never pickled"):
        program.save(tmp_path / "program.pkl")
    assert list(tmp_path.glob("program*")) == []


def test_a_type_or_a_demo_that_cannot_be_written_is_refused_and_the_old_file_stays(tmp_path: Path):
    path = tmp_path / "program.json"
    path.write_text("old")
    program = plain_program(models())
    program.propose.demos = [{"question": object(), "answer": "a"}]  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError) as caught:
        program.save(path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("demo", "saved"),
    [
        ({"question": "\ud800 q", "answer": "a"}, {"question": "? q", "answer": "a"}),
        ({"question": "q", "answer": "a", "row": object(), "id": 5}, {"question": "q", "answer": "a", "id": 5}),
        ({"question": "q", "answer": np.float32(0.5)}, {"question": "q", "answer": 0.5}),
        ({"question": np.array(["q", "r"]), "answer": np.int64(5)}, {"question": ["q", "r"], "answer": 5}),
        ({"question": date(2024, 5, 6), "answer": {"a"}}, {"question": "2024-05-06", "answer": ["a"]}),
    ],
)
def test_demos_of_data_sets_can_be_saved_and_shown(tmp_path: Path, demo: Any, saved: Any):
    lm = ScriptedLM("yes", "scripted/m")
    program = moa_dspy.single_model("question -> answer", lm)
    program.propose.demos = [demo]  # type: ignore[union-attr]
    program.save(tmp_path / "p.json")
    loaded = moa_dspy.load(tmp_path / "p.json", lms={"m": lm})
    assert loaded.propose.demos == [saved]  # type: ignore[union-attr]
    assert program(question="?").answer == loaded(question="?").answer == "yes"


def test_writing_where_one_cannot_is_refused_and_leaves_nothing_behind(tmp_path: Path):
    program = plain_program(models())
    for path in (tmp_path / "absent" / "program.json", tmp_path, Path("/dev/full/program.json")):
        with pytest.raises(ConfigurationError, match="cannot write"):
            program.save(path)
    assert [path.name for path in tmp_path.iterdir() if "dspy-cache" not in path.name] == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "program.json"
    path.write_text("old")
    program, limits = plain_program(models()), resource.getrlimit(resource.RLIMIT_FSIZE)
    child = os.fork() if sys.platform != "win32" else 0
    if child == 0:
        code = 1
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            try:
                program.save(path)
            except ConfigurationError as error:
                code = 0 if "cannot write" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.glob("*program*")] == ["program.json"]


def test_a_new_file_is_private_and_a_replaced_one_keeps_its_rights(tmp_path: Path):
    program, path = plain_program(models()), tmp_path / "program.json"
    program.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    program.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_reader_of_the_old_file_never_sees_half_of_the_new_one(tmp_path: Path):
    program, path, link = plain_program(models()), tmp_path / "program.json", tmp_path / "link.json"
    program.save(path)
    link.symlink_to(path)
    with path.open() as reader:
        old = path.read_text()
        program.propose.demos = [{"question": "q", "answer": "a"}]  # type: ignore[union-attr]
        program.save(link)
        assert reader.read() == old
    assert link.is_symlink()
    assert moa_dspy.load(path, lms=models()).propose.demos == [{"question": "q", "answer": "a"}]  # type: ignore[union-attr]


@pytest.mark.parametrize("option", ["api_base", "base_url"])
def test_a_program_of_a_self_hosted_model_says_what_to_pass(option: str, tmp_path: Path):
    address: dict[str, Any] = {option: "http://127.0.0.1:9/v1"}
    mine = dspy.LM("openai/mine", **address, api_key="no-key")
    path = tmp_path / "p.json"
    AttentionMoA("question -> answer", [mine, "openai/other"], aggregator=Agent(mine, name="judge")).save(path)
    assert "127.0.0.1" not in path.read_text()
    with pytest.raises(
        ConfigurationError, match=r"give lms=\{'mine': dspy.LM\('openai/mine', api_base=\.\.\.\)\}.*--config"
    ):
        moa_dspy.load(path)
    with pytest.raises(ConfigurationError, match=r"agent 'judge'"):
        moa_dspy.load(path, lms={"mine": mine})
    loaded = moa_dspy.load(path, lms={"openai/mine": mine})
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_a_self_hosted_model_may_have_its_address_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    AttentionMoA("question -> answer", [dspy.LM("openai/mine", api_base="http://127.0.0.1:9/v1")]).save(
        tmp_path / "p.json"
    )
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    moa_dspy.load(tmp_path / "p.json")


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "program.json"
    program = moa_dspy.single_model("question -> answer", ScriptedLM("Paris", "openai/gpt-4.1"))
    program.save(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(moa_dspy.load(path).signature.output_fields) == list(program.signature.output_fields)


def test_an_agent_without_its_own_lm_says_how_to_give_it(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    single_model("question -> answer", ScriptedLM("x", model="sim/0")).save(path)
    with pytest.raises(
        ConfigurationError, match=r"of .*tuned\.json: model 'sim/0' names no provider.*lms={'sim/0': LM}"
    ):
        load(path)


def test_a_record_leaves_out_what_is_empty() -> None:
    record = Provenance(
        method="kept: optimize changed nothing",
        settings={"budget": {}, "objective": {"name": "score", "price": None}, "rounds": 1},
        date=datetime(2026, 11, 29, tzinfo=UTC),
    )
    assert dict(record.rows())["settings"] == "objective (name score), rounds 1"
