"""Loading: every format, every benchmark's files, the hub at its edge, and every error in one line."""

import json
import math
import subprocess
import sys

import datasets
import dspy
import pytest
from datasets.exceptions import DatasetNotFoundError

from moa_dspy.data import bbh, benchmarks, get_benchmark, load, starter, stream
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.metrics.text import ExactMatch
from moa_dspy.errors import ConfigurationError

ROWS = [
    {"prompt": "What?", "label": "007", "note": "2024-01-01 00:00:00"},
    {"prompt": 'A, "b"\nc', "label": "NA", "note": ""},
    {"prompt": "Ünï", "label": "1.50", "note": "x"},
]


@pytest.fixture(autouse=True)
def dspy_sandbox(monkeypatch):
    """No language model is called in this file; no folder of the user's is read."""
    monkeypatch.delenv("MOA_DSPY_DATA", raising=False)


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif file.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(file))
    else:
        import csv

        with file.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_own_files_keep_every_value_as_it_is_written(tmp_path, suffix):
    file = write(tmp_path / f"set{suffix}", ROWS)
    examples = load(file, fields={"question": "prompt", "answer": "label", "note": "note"})
    assert [example.toDict() for example in examples] == [
        {"question": row["prompt"], "answer": row["label"], "note": row["note"]} for row in ROWS
    ]
    assert all(example.inputs().keys() == ["question"] for example in examples)
    assert [example.answer for example in stream(str(file), fields={"question": "prompt", "answer": "label"})] == [
        row["label"] for row in ROWS
    ]


def test_fields_and_inputs(tmp_path):
    file = write(tmp_path / "set.jsonl", ROWS)
    example = load(file, inputs=("prompt", "note"))[0]
    assert example.inputs().keys() == ["prompt", "note"]
    assert load(file, fields=["prompt"], inputs=["prompt"])[0].keys() == ["prompt"]


def test_a_folder_with_a_file_for_each_split(tmp_path):
    write(tmp_path / "mine" / "train.jsonl", [{"question": "a"}])
    write(tmp_path / "mine" / "test.csv", [{"question": "b"}])
    assert load(tmp_path / "mine")[0].question == "b"
    assert load(str(tmp_path / "mine"), "train")[0].question == "a"
    with pytest.raises(ConfigurationError, match="has no split 'dev'; there are: test, train"):
        load(tmp_path / "mine", "dev")


@pytest.mark.parametrize("limit", [1.5, "1", True, -1])
def test_a_limit_is_a_whole_number(tmp_path, limit):
    file = write(tmp_path / "set.jsonl", [{"question": "a"}])
    for where in (file, "starter"):
        with pytest.raises(ConfigurationError, match="limit must be a whole number from 0, got "):
            load(where, limit=limit)


def test_names_of_files_are_taken_as_they_are(tmp_path, monkeypatch):
    write(tmp_path / "p.parquet", [{"question": "a"}]).rename(tmp_path / "p[1].parquet")
    assert load(tmp_path / "p[1].parquet")[0].question == "a"
    write(tmp_path / "set.jsonl", [{"question": "a"}]).rename(tmp_path / "SET.JSONL")
    monkeypatch.chdir(tmp_path)
    assert load("SET.JSONL")[0].question == "a"
    (tmp_path / "set.jsonl.gz").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match=r"set.jsonl.gz: cannot read .gz; use .jsonl"):
        load("set.jsonl.gz")
    with pytest.raises(ConfigurationError, match=r"no such file or folder: ./nope"):
        load("./nope")


def test_one_text_is_no_list_of_fields(tmp_path):
    file = write(tmp_path / "set.jsonl", [{"question": "a"}])
    with pytest.raises(ConfigurationError, match=r"fields='question' is one text; give a list .* \['question'\]"):
        load(file, fields="question")
    with pytest.raises(ConfigurationError, match="inputs='question' is one text"):
        load(file, inputs="question")


def test_csv_fields_of_any_length_and_columns_of_one_name(tmp_path):
    file = write(tmp_path / "set.csv", [{"question": "x" * 200_000}])
    assert len(load(file)[0].question) == 200_000
    file.write_text("question,answer,question\na,b,c\n")
    with pytest.raises(ConfigurationError, match="several columns are called 'question'; rename all but one"):
        load(file)


def test_limit_and_seed(tmp_path):
    file = write(tmp_path / "set.jsonl", [{"question": str(n)} for n in range(50)])
    assert [example.question for example in load(file, limit=3)] == ["0", "1", "2"]
    few, more = (load(file, limit=n, seed=4) for n in (5, 10))
    assert more[:5] == few
    assert [example.question for example in few] != ["0", "1", "2", "3", "4"]
    assert load(file, limit=5, seed=4) == few
    assert load(file, limit=5, seed=5) != few
    assert load(file, limit=0) == []
    with pytest.raises(ConfigurationError, match="limit must be a whole number from 0"):
        load(file, limit=-1)


def test_a_stream_is_lazy(tmp_path):
    file = tmp_path / "set.jsonl"
    file.write_text('{"question": "a"}\nbroken\n')
    rows = stream(file)
    assert next(rows).question == "a"
    with pytest.raises(ConfigurationError):
        next(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": 1}\n{"question":\n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"question": 1}\n\n[1]\n', r"a\.jsonl, line 3: expected an object with named fields, got a list"),
        ("a.jsonl", "", r"a\.jsonl is empty"),
        ("a.json", "{", r"a\.json: not JSON"),
        ("a.json", '{"a": 1}', r"a\.json: expected a list of objects, or an object with one such list, got an object"),
        ("a.json", '[{"question": 1}, 2]', r"a\.json, entry 2: expected an object with named fields, got int"),
        ("a.csv", "question,answer\n1,2\n3\n", r"a\.csv, line 3: expected 2 columns"),
        ("a.csv", "question,answer\n1,2,3\n", r"a\.csv, line 2: expected 2 columns"),
        ("a.csv", 'question\n"x" y\n', r"a\.csv, line 2: "),
        ("a.parquet", "not parquet", r"a\.parquet cannot be read: "),
        ("a.txt", "hello", r"a\.txt: cannot read \.txt; use \.jsonl, \.json, \.csv, \.parquet"),
        ("a.jsonl", '{"prompt": 1}\n', "row 1 has no input field 'question'; it has: prompt"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_a_json_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[\xff]")
    with pytest.raises(ConfigurationError, match=r"a\.json is not UTF-8 text: byte 0xff; save it as UTF-8"):
        load(tmp_path / "a.json")


def test_missing_columns_name_those_there_are(tmp_path):
    file = write(tmp_path / "set.jsonl", [{"question": "a", "label": "b"}, {"question": "c"}])
    with pytest.raises(ConfigurationError, match="row 2 lacks 'label'; it has: question"):
        load(file, fields={"question": "question", "answer": "label"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gsm9k",), "'gsm9k' is neither a benchmark .*gsm8k.* nor a file"),
        (("gsm8k", "dev"), "gsm8k has no split 'dev'; there are: test, train"),
        (("no/such/file.jsonl",), "no such file"),
        (("a/b/c",), "no such file or folder"),
        (("openai/gsm8k",), "openai/gsm8k cannot be fetched without a network and is not in the local cache"),
        (("gsm8k",), "openai/gsm8k cannot be fetched without a network"),
        (("flask",), r"flask is not on the hub: give a folder with flask_evaluation\.jsonl or evaluation\.jsonl"),
    ],
)
def test_what_is_not_there(arguments, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)


def test_arguments_that_do_not_fit(tmp_path):
    file = write(tmp_path / "set.jsonl", [{"question": "a"}])
    with pytest.raises(ConfigurationError, match="has no split 'test'; leave split= out"):
        load(file, "test")
    with pytest.raises(ConfigurationError, match="fields, inputs and config are for your own data"):
        load("starter", fields=["question"])
    with pytest.raises(ConfigurationError, match="path= is for benchmarks"):
        load(file, path=tmp_path)


class Hub:
    """``datasets.load_dataset`` as the network edge: what was asked for, and what it gives or raises."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def __call__(self, path, name=None, *, split, data_files=None, streaming=False):
        self.asked.append((path, name, split, data_files, streaming))
        if isinstance(self.answer, Exception):
            raise self.answer
        return iter(self.answer)


@pytest.fixture
def hub(monkeypatch):
    def connect(answer):
        edge = Hub(answer)
        monkeypatch.setattr(datasets, "load_dataset", edge)
        return edge

    return connect


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            DatasetNotFoundError("Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub. Visit the dataset page"),
            "is gated: accept its terms",
        ),
        (DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub"), "is not on the hub, or you have no access"),
        (
            ValueError("Unknown split \"test\". Should be one of ['train', 'dev']."),
            "no split 'train'; there are: train, dev",
        ),
        (ValueError("Bad split: x. Available splits: ['a', 'b']"), "there are: a, b"),
        (ValueError("BuilderConfig 'q' not found. Available: ['main', 'socratic']"), "there are: main, socratic"),
        (ConnectionError("Couldn't reach"), "without a network"),
        (TimeoutError("slow"), None),
    ],
)
def test_hub_errors_say_what_to_do(hub, error, message):
    hub(error)
    if message is None:
        with pytest.raises(TimeoutError):
            load("gpqa")
        return
    with pytest.raises(ConfigurationError, match=message) as caught:
        load("gpqa")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_hub_sets_of_ones_own(hub):
    edge = hub([{"question": "a", "answer": "b"}])
    assert load("me/mine", "train", config="big")[0].answer == "b"
    assert next(stream("me/mine")).answer == "b"
    assert edge.asked == [("me/mine", "big", "train", None, False), ("me/mine", None, "test", None, True)]


def test_an_empty_split(hub):
    hub([])
    with pytest.raises(ConfigurationError, match="gsm8k: the split 'train' is empty"):
        load("gsm8k", "train")


HUB_ROWS = {
    "gsm8k": ({"question": "1+1?", "answer": "so\n#### 2"}, ("openai/gsm8k", "main", "test", None)),
    "math500": (
        {"problem": "1+1?", "solution": "so", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "a/1"},
        ("HuggingFaceH4/MATH-500", None, "test", None),
    ),
    "mmlu": (
        {"question": "1+1?", "subject": "algebra", "choices": ["1", "2", "3", "4"], "answer": 1},
        ("cais/mmlu", "all", "test", None),
    ),
    "mmlu_pro": (
        {
            "question_id": 7,
            "question": "1+1?",
            "options": ["1", "N/A", "2"],
            "answer": "C",
            "answer_index": 2,
            "category": "math",
        },
        ("TIGER-Lab/MMLU-Pro", None, "test", None),
    ),
    "gpqa": (
        {
            "Question": "1+1?",
            "Correct Answer": "2\n",
            "Incorrect Answer 1": "1",
            "Incorrect Answer 2": "3",
            "Incorrect Answer 3": "4",
            "Record ID": "r",
            "High-level domain": "Physics",
        },
        ("Idavidrein/gpqa", "gpqa_diamond", "train", None),
    ),
    "hotpotqa": (
        {
            "id": "h",
            "question": "who?",
            "answer": "Ada",
            "type": "bridge",
            "context": {"title": ["T"], "sentences": [["One. ", "Two."]]},
        },
        ("hotpotqa/hotpot_qa", "distractor", "validation", None),
    ),
    "alpaca_eval": (
        {"instruction": "do", "output": "done", "dataset": "koala", "generator": "g"},
        (
            "json",
            None,
            "eval",
            {"eval": "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json"},
        ),
    ),
    "mt_bench": (
        {"prompt": ["q1", "q2"], "prompt_id": 5, "category": "math", "reference": ["r1", "r2"]},
        ("HuggingFaceH4/mt_bench_prompts", None, "train", None),
    ),
}


@pytest.mark.parametrize("name", sorted(HUB_ROWS))
def test_benchmarks_from_the_hub(hub, name):
    row, asked = HUB_ROWS[name]
    edge = hub([row])
    example = load(name)[0]
    benchmark = get_benchmark(name)
    assert edge.asked == [(*asked, False)]
    assert set(benchmark.signature.input_fields) == set(example.inputs().keys())
    assert isinstance(example.id, str)


FLASK_ROW = {
    "idx": 1,
    "instruction": "do",
    "answer": "a",
    "skill": ["Factuality"],
    "domain": ["Math"],
    "difficulty": "x",
}
BBH_ROW = {"input": "q", "target": "(A)", "task": "navigate"}


@pytest.mark.parametrize("written", [json.dumps, repr], ids=["json", "python"])
@pytest.mark.parametrize("name", sorted({*HUB_ROWS, "flask", "bbh", "starter"}))
def test_every_benchmark_reads_its_columns_from_csv(tmp_path, name, written):
    row = {"flask": FLASK_ROW, "bbh": BBH_ROW}[name] if name in ("flask", "bbh") else HUB_ROWS.get(name, (None,))[0]
    rows = [row] if row else [json.loads(line) for line in starter._FILE.read_text(encoding="utf-8").splitlines()[:125]]
    split = get_benchmark(name).splits[0]
    write(tmp_path / "lines" / f"{split}.jsonl", rows)
    columns = {column for row in rows for column in row}
    texts = [
        {key: written(row[key]) if isinstance(row.get(key), list | dict) else row.get(key, "") for key in columns}
        for row in rows
    ]
    write(tmp_path / "table" / f"{split}.csv", texts)
    lines, table = (load(name, path=tmp_path / folder) for folder in ("lines", "table"))
    assert [example.toDict() | {"level": None} for example in table] == [
        example.toDict() | {"level": None} for example in lines
    ]


@pytest.mark.parametrize("text", ["one, two", "['one' 'two']", "[1, 2", "7", "__import__('os')"])
def test_a_column_that_is_no_list_is_refused_with_its_row(tmp_path, text):
    write(tmp_path / "test.csv", [{"question": "q", "subject": "s", "choices": text, "answer": "1"}])
    with pytest.raises(ConfigurationError, match="mmlu, row 1 cannot be read: expected a list or an object, as JSON"):
        load("mmlu", path=tmp_path)


def test_a_value_that_does_not_fit_is_refused_with_its_row(tmp_path):
    write(tmp_path / "test.jsonl", [{"question": "q", "subject": "s", "choices": ["1", "2"], "answer": "B"}])
    with pytest.raises(ConfigurationError, match="mmlu, row 1 cannot be read: invalid literal"):
        load("mmlu", path=tmp_path)


@pytest.mark.parametrize("name", sorted(set(HUB_ROWS) - {"alpaca_eval", "mt_bench"}))
def test_right_and_wrong_answers(hub, name):
    hub([HUB_ROWS[name][0]])
    benchmark = get_benchmark(name)
    example = benchmark.load()[0]
    metric = benchmark.metric()
    form = {"gsm8k": "#### {}", "math500": r"\boxed{{{}}}"}.get(name, "Answer: {}" if "choices" in example else "{}")
    assert metric(example, dspy.Prediction(answer=form.format(example.answer))) in (True, 1.0)
    assert metric(example, dspy.Prediction(answer="99")) in (False, 0.0)


def test_bbh_reads_every_task_from_the_hub(hub):
    edge = hub([])
    with pytest.raises(ConfigurationError, match="empty"):
        load("bbh")
    assert tuple(asked[1] for asked in edge.asked) == bbh.TASKS
    assert len(edge.asked) == 27


def test_bbh_from_the_authors_files(tmp_path):
    for task in ("navigate", "word_sorting"):
        write(tmp_path / f"{task}.json", {"canary": "c", "examples": [{"input": "q", "target": "(A)"}]})
    examples = load("bbh", path=tmp_path)
    assert [example.category for example in examples] == ["navigate", "word_sorting"]
    assert [example.id for example in examples] == ["navigate-0", "word_sorting-0"]
    (tmp_path / "navigate.json").unlink()
    assert [example.id for example in load("bbh", path=tmp_path)] == ["word_sorting-0"], "the rest keep their ids"


def test_mmlu_from_the_authors_files(tmp_path):
    (tmp_path / "mmlu" / "test").mkdir(parents=True)
    (tmp_path / "mmlu" / "test" / "high_school_physics_test.csv").write_text("What is NA?,1,None,3,4,B\n")
    example = load("mmlu", path=tmp_path)[0]
    assert example.category == "high_school_physics"
    assert example.choices == ["1", "None", "3", "4"]
    assert example.question == "What is NA?\n\nA) 1\nB) None\nC) 3\nD) 4"


def test_hotpotqa_from_the_authors_file(tmp_path):
    row = {"_id": "5", "question": "who?", "answer": "Ada", "type": "bridge", "context": [["T", ["One. ", "Two."]]]}
    write(tmp_path / "hotpot_dev_distractor_v1.json", [row])
    assert load("hotpotqa", path=tmp_path)[0].context == ["T: One. Two."]


def test_gpqa_order_depends_on_the_question_alone(hub):
    row = HUB_ROWS["gpqa"][0]
    hub([row])
    first = load("gpqa")[0]
    hub([row | {"Question": "other"}, row])
    assert load("gpqa")[1].choices == first.choices
    assert first.choices["ABCD".index(first.answer)] == "2"


def test_the_environment_variable(tmp_path, monkeypatch, hub):
    edge = hub([{"question": "hub", "answer": "#### 1"}])
    write(tmp_path / "gsm8k" / "test.jsonl", [{"question": "file", "answer": "#### 1"}])
    monkeypatch.setenv("MOA_DSPY_DATA", str(tmp_path))
    assert load("gsm8k")[0].question == "file"
    assert load("gsm8k", "train")[0].question == "hub", "what the folder has not comes from the hub"
    assert len(edge.asked) == 1


def test_a_folder_of_the_environment_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MOA_DSPY_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match=r"MOA_DSPY_DATA must name an existing folder, got .*nowhere"):
        load("gsm8k")


def test_a_given_folder_must_have_the_files(tmp_path):
    with pytest.raises(ConfigurationError, match=r"has none of test\.jsonl, test\.json, test\.csv, test\.parquet"):
        load("gsm8k", path=tmp_path)
    with pytest.raises(ConfigurationError, match="no such folder"):
        load("gsm8k", path=tmp_path / "nowhere")


def test_a_row_without_a_field(tmp_path):
    write(tmp_path / "test.jsonl", [{"question": "a", "answer": "#### 1"}, {"question": "a"}])
    with pytest.raises(ConfigurationError, match="gsm8k, row 2 lacks the field 'answer'; it has: question"):
        load("gsm8k", path=tmp_path)


def test_all_benchmarks_are_found_and_declare_everything():
    names = benchmarks()
    expected = "alpaca_eval bbh flask gpqa gsm8k hotpotqa math500 mmlu mmlu_pro mt_bench starter"
    assert set(expected.split()) <= set(names)
    for name in names:
        benchmark = get_benchmark(name)
        assert benchmark.title
        assert benchmark.source
        assert benchmark.licence
        assert benchmark.splits
        assert issubclass(benchmark.signature, dspy.Signature)
        assert benchmark.signature.instructions


def test_names_are_forgiving():
    assert get_benchmark("MMLU-Pro").name == "mmlu_pro"
    assert get_benchmark("MATH-500").name == "math500"


def test_a_benchmark_of_ones_own_is_one_class(tmp_path):
    from moa_dspy.data import benchmark as registry

    class Mine(Benchmark):
        name = "my_own"
        title = source = licence = "mine"
        signature = get_benchmark("gsm8k").signature

        def example(self, row, part, position):
            return dspy.Example(id=str(position), **row).with_inputs("question")

        def metric(self, lm=None, prompts=None):
            return ExactMatch()

    try:
        write(tmp_path / "test.jsonl", [{"question": "a", "answer": "b", "category": "c"}])
        assert "my_own" in benchmarks()
        example = load("my-own", path=tmp_path)[0]
        assert Mine().category(example) == "c"
        assert Mine().generation(example) == {}
    finally:
        del registry._REGISTRY["myown"]


@pytest.mark.slow
def test_importing_is_light():
    code = (
        "import sys, moa_dspy.data; assert 'dspy' not in sys.modules; moa_dspy.data.gsm8k; moa_dspy.data.load;"
        "heavy = {'datasets', 'sklearn', 'math_verify', 'sympy', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"question": "Où?", "answer": "ici 😀"}\n'),
        ("a.json", '[{"question": "Où?", "answer": "ici 😀"}]'),
        ("a.csv", "question,answer\nOù?,ici 😀\n"),
        ("a.csv", "question, answer \r\nOù?,ici 😀\r\n"),
    ],
)
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding, name, content):
    (tmp_path / name).write_bytes(content.encode(encoding))
    (example,) = load(tmp_path / name)
    assert (example.question, example.answer) == ("Où?", "ici 😀")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "Où?".encode("latin-1"), r"a\.csv is not UTF-8 text: byte 0xf9; save it as UTF-8"),
        ("a.jsonl", "Où?".encode("latin-1"), r"a\.jsonl is not UTF-8 text: byte 0xf9; save it as UTF-8"),
        ("a.csv", b"question;answer\na;b\n", "its columns seem to be separated by ';'; separate them with commas"),
        ("a.csv", b"question\tanswer\na\tb\n", "its columns seem to be separated by"),
        ("a.csv", b"question, question\na,b\n", "several columns are called 'question'"),
        (
            "a.jsonl",
            b'[{"question": "a"}]\n',
            "got a list; a .jsonl file has one object a line",
        ),
        ("a.jsonl", b'{\n"question": "a"}\n', "line 1: not JSON .* a .jsonl file has one object a line"),
    ],
)
def test_a_file_of_another_form_is_told_what_to_do(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path / name)


def test_not_a_number_is_no_value(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": NaN, "high": Infinity}\n')
    (example,) = load(tmp_path / "a.jsonl")
    assert (example.answer, example.high) == (None, math.inf)
