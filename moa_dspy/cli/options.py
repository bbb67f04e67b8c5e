"""The commands and their options. Each option is declared once, and has the name of the argument in Python.

A command is a class: its docstring is the help, its fields are the options. Base classes hold the options that several
commands share. Nothing heavy is imported here, so that ``--help`` is fast.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

from moa_dspy.errors import ConfigurationError, InputError

__all__ = [
    "COMMANDS",
    "Ask",
    "CallingOptions",
    "Command",
    "Compare",
    "CostOptions",
    "Doctor",
    "Eval",
    "ExampleOptions",
    "Init",
    "LimitOptions",
    "Mcp",
    "Optimize",
    "Plan",
    "Profile",
    "ProgramOptions",
    "QuestionOptions",
    "Report",
    "Run",
    "Serve",
    "ServingOptions",
    "Show",
    "parameters",
]

_TYPER: Final = "typer"
_PROGRAM: Final = "A saved program; --config may add its connections and limits."
_FILES: Final = frozenset({".json", ".jsonl", ".toml", ".yaml", ".yml", ".csv", ".parquet", ".db", ".txt", ".md"})
"""Suffixes of files that a user may name in the place of a question."""


def _argument(metavar: str, text: str, **default: Any) -> Any:
    return dataclasses.field(**default, metadata={_TYPER: typer.Argument(metavar=metavar, help=text)})


def _option(metavar: str | None, text: str, *names: str, default: Any = None, **limits: Any) -> Any:
    """Return a field for an option. Without ``names``, the option has the name of the field."""
    option = typer.Option(*names, metavar=metavar, help=text, **limits)
    return dataclasses.field(default=default, metadata={_TYPER: option})


def _flag(text: str, *names: str, default: bool = False) -> Any:
    return _option(None, text, *names, default=default)


@dataclass(frozen=True, kw_only=True)
class Command:
    """The options of every command."""

    json: bool = _flag("Print one JSON object.", "--json")
    quiet: bool = _flag("No progress, notes or warnings on standard error.", "--quiet", "-q")


@dataclass(frozen=True, kw_only=True)
class CallingOptions(Command):
    """The options of every command that calls models."""

    no_cache: bool = _flag("Neither read nor write the response cache.", "--no-cache")


@dataclass(frozen=True, kw_only=True)
class CostOptions(Command):
    """The options of every command that shows its cost first, and asks on a terminal."""

    estimate: bool = _flag("Show the expected cost, and exit.", "--estimate")
    yes: bool = _flag("Do not ask before the run.", "--yes", "-y")


@dataclass(frozen=True, kw_only=True)
class TraceOptions(Command):
    """The options of every command that writes many answers."""

    trace: bool = _flag("Write the record of every step with each answer.", "--trace")


@dataclass(frozen=True, kw_only=True)
class LimitOptions(Command):
    """Limits on what a command, or each question to a server, may spend."""

    max_calls: int | None = _option("N", "Limit of LM calls.", min=1)
    max_tokens: int | None = _option("N", "Limit of tokens.", min=1)
    max_usd: float | None = _option("DOLLARS", "Limit of dollars.")
    max_seconds: float | None = _option("SECONDS", "Limit of wall time.")


@dataclass(frozen=True, kw_only=True)
class TrustOptions(Command):
    """What a saved program may use besides the models of its agents."""

    vectorizer: list[str] | None = _option("MODEL", "An embedding model that a saved program may call. Repeatable.")
    module: list[str] | None = _option("PLACE", "A module that a saved program may import. Repeatable.")


@dataclass(frozen=True, kw_only=True)
class ForceOptions(Command):
    """The option of every command that writes a file for people."""

    force: bool = _flag("Replace files that exist.", "--force")


@dataclass(frozen=True, kw_only=True)
class GainOptions(Command):
    """The option of every command that tests for a gain."""

    gain: float | None = _option("SCORE", "A gain to detect; shows how many examples the test takes.")


@dataclass(frozen=True, kw_only=True)
class ProgramOptions(TrustOptions, LimitOptions):
    """A program, and limits on what the command may spend."""

    program: str | None = _argument("PROGRAM", _PROGRAM, default=None)
    named_program: str | None = _option("FILE", "The same as PROGRAM.", "--program", "-p")
    config: str | None = _option("FILE", "Agents, connections, architecture and limits, in TOML.", "--config", "-c")
    agent: list[str] | None = _option("MODEL", "A model, or model@temperature. Repeatable.", "--agent", "-a")
    layers: int | None = _option("N", "Number of layers.  [default: 2]", min=1)
    attention: str | None = _option("PATTERN", "full, cross, disagreeing, self, none, or a number.  [default: full]")
    critiques: str | None = _option("KIND", "single, or joint (one call for each critic).  [default: single]")
    gate: str | None = _option("GATE", "off, unanimous, a share, or first=2,agreement=0.8.  [default: off]")
    dissent: bool | None = _option(None, "Also report where the agents differ, in one more call.", "--dissent")
    aggregator: str | None = _option("MODEL", "The aggregating model.  [default: the first agent's]")
    signature: str | None = _option("TEXT", "The task's fields.  [default: question -> answer]")

    def __post_init__(self) -> None:
        if self.program is not None and self.named_program not in (None, self.program):
            raise ConfigurationError(
                f"PROGRAM {self.program} and --program {self.named_program} are two programs; leave one of them out"
            )
        object.__setattr__(self, "program", self.program or self.named_program)


@dataclass(frozen=True, kw_only=True)
class QuestionOptions(ProgramOptions):
    """A program and one question."""

    question: str | None = _argument("QUESTION", "The question; - reads it from standard input.", default=None)
    input: list[str] | None = _option(
        "NAME=VALUE", "An input field; JSON if it is not text. Repeatable.", "--input", "-i"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.question is not None and _names_file(self.question):
            raise InputError(
                f"QUESTION {self.question} looks like a file; name a saved program with --program and a configuration "
                f"with --config, or write --input NAME={self.question} to ask this text itself"
            )


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(ProgramOptions, CallingOptions):
    """A program, examples, and how its answers are scored."""

    benchmark: str | None = _option("NAME", "The examples: a benchmark, or package.module:Class.")
    data: str | None = _option("DATA", "The examples: a file, a folder or a hub id.", "--data", "-d")
    fields: str | None = _option("FIELD=COLUMN,...", "For --data: the columns of the task's fields.")
    path: str | None = _option("FOLDER", "For --benchmark: its files.")
    split: str | None = _option("NAME", "The split.  [default: the first]")
    limit: int | None = _option("N", "Use a sample of N examples.", min=1)
    metric: str | None = _option(
        "NAME",
        "exact, normalized, f1, contains, numeric, choice, math, or package.module:function.  "
        "[default: the benchmark's]",
        "--metric",
        "-m",
    )
    judge: str | None = _option("MODEL", "The judge, for a metric that needs one.")
    seed: int = _option("N", "Seed of samples and searches.", default=0, min=0)
    concurrency: int = _option("N", "Examples that run at once.", default=8, min=1)

    @property
    def source(self) -> str | None:
        """Return the benchmark or the data."""
        return self.data if self.benchmark is None else self.benchmark


@dataclass(frozen=True, kw_only=True)
class Ask(QuestionOptions, CallingOptions):
    """Ask a question.

    Several models answer, criticise each other, refine and combine their answers. Without --agent, --config or
    --program, three agents run on the embedded model.
    """

    trace: str | None = _option("FILE", "Write the record of every step to this file, as JSON.")
    prompts: bool = _flag("Also record the prompt of every call in the trace.", "--prompts")
    open: bool = _flag("Show the run live in the browser, until Ctrl-C.", "--open")


@dataclass(frozen=True, kw_only=True)
class Plan(QuestionOptions):
    """Show what a question would cost: calls, tokens and dollars.

    No model is called, and no key is needed. Calls are exact for a run in which none fails. Tokens and dollars follow
    from the real prompts, from LiteLLM's price list, and from assumed lengths of the answers. The limits are those of
    each run.
    """

    times: int = _option("N", "Number of such questions.", "--times", "-n", default=1, min=1)
    answer_tokens: int | None = _option("N", "Assumed tokens of an answer.  [default: 450]", min=1)
    critique_tokens: int | None = _option("N", "Assumed tokens of a critique.  [default: 200]", min=1)
    reasoning_tokens: int | None = _option("N", "Assumed tokens of a reasoning field.  [default: 150]", min=1)
    thinking_tokens: int | None = _option("N", "Assumed hidden thinking in each call.  [default: 0]", min=0)
    input_tokens: int | None = _option("N", "Assumed tokens of an input not given.  [default: 100]", min=1)
    like: str | None = _option("FILE", "Take these lengths from the trace of an earlier run.")
    seconds_per_call: float | None = _option("SECONDS", "Time of a call, for an estimate of the wall time.")


@dataclass(frozen=True, kw_only=True)
class Eval(ExampleOptions, TraceOptions, CostOptions):
    """Score a program on a benchmark or on your own examples.

    An interrupted run with --out resumes where it stopped. Without PROGRAM, --config, --agent or --recipe, three agents
    run on the embedded model.
    """

    preset: str | None = _option("NAME", "The same agents as single, self-consistency, self-moa, moa or attention-moa.")
    samples: int | None = _option("N", "Samples of self-consistency and self-moa.  [default: 5]", min=2)
    judge_prompts: str | None = _option("FOLDER", "The official judge prompts.  [default: our own]")
    out: str | None = _option("FILE", "Records, a line for each item. Resumes if it exists.", "--out", "-o")
    against: str | None = _option("FILE", "Records of another run, compared item by item.")
    outputs: str | None = _option("PATH", "Write answers in the official format; a folder also gets the judgments.")
    name: str | None = _option("TEXT", "The program's name in these files.")
    recipe: str | None = _option("NAME", "One of the paper's experiments.")
    recipes: bool = _flag("List the recipes and exit.", "--recipes")


@dataclass(frozen=True, kw_only=True)
class Run(ProgramOptions, CallingOptions, TraceOptions, CostOptions):
    """Answer many questions: the rows of a file, a data set or standard input.

    The expected cost is shown first. The same command resumes an interrupted run: rows that have an answer are not
    asked again. Without PROGRAM, --config or --agent, three agents run on the embedded model.
    """

    data: str = _option(
        "DATA", "The rows: a file, a folder, a hub id, or - for JSON lines.", "--data", "-d", default=MISSING
    )
    out: str = _option("FILE", "The answers: .jsonl, .csv or .parquet.", "--out", "-o", default=MISSING)
    fields: str | None = _option("FIELD=COLUMN,...", "The columns of the task's fields.  [default: all columns]")
    split: str | None = _option("NAME", "The split.  [default: test]")
    limit: int | None = _option("N", "Only the first N rows.", min=1)
    batch: bool = _flag("Send requests in batches of their provider, at half the price, within a day.", "--batch")
    batch_rest: str = _option(
        "HOW",
        "How to send requests that a batch did not answer: single, or resubmit.",
        "--batch-rest",
        default="single",
    )
    concurrency: int | None = _option("N", "Rows that run at once.  [default: 8, or 10000 with --batch]", min=1)


@dataclass(frozen=True, kw_only=True)
class Optimize(ExampleOptions, CostOptions, GainOptions, ForceOptions):
    """Tune a program, and test the result.

    Prompts, architecture, stop rule and gate are tuned. The result is kept only if it is better on examples that it was
    not tuned on. The [space] table of --config holds what a search may choose. When the budget is used up, the best
    program so far is tested.
    """

    valset: str | None = _option("FILE", "Held-out examples for the test.  [default: a third of the examples]")
    only: list[str] | None = _option(
        "PART", "Tune only prompts, architecture, stop or gate. Repeatable.  [default: all]"
    )
    rounds: int = _option("N", "Number of rounds; each starts from the last one's result.", default=1, min=1)
    method: str = _option(
        "NAME",
        "Prompt method: gepa, mipro, simba, copro, bootstrap, bootstrap_random, labeled, knn, reanchor.",
        default="gepa",
    )
    effort: str = _option("LEVEL", "Effort of the prompt method: light, medium or heavy.", default="light")
    prompt_lm: str | None = _option("MODEL", "The model that writes instructions.  [default: the aggregator's]")
    least_gain: float | None = _option(
        "GAIN", "Stop at once if the agents' ceiling leaves less room than this, such as 0.02."
    )
    max_loss: float = _option("LOSS", "The most that a gate may lose of the score.", default=0.01)
    n_trials: int = _option("N", "Architectures that a search tries.", default=40, min=1)
    objective: str = _option(
        "NAME", "Objective of the search: score, score_at_price, or score,cost for both.", default="score"
    )
    price: float | None = _option("AMOUNT", "For score_at_price: the most that an example may cost.")
    unit: str = _option("UNIT", "Unit of prices: usd, tokens or calls.", default="usd")
    storage: str | None = _option("PLACE", "FILE.db or a database URL for the study; an existing study is continued.")
    study_name: str = _option("NAME", "Name of the study in the storage.", default="moa-dspy")
    warm_start: list[str] | None = _option(
        "FILE", "A program or a study of a similar task, whose architecture is tried early. Repeatable."
    )
    explain: bool = _flag("Also show what each stage and each agent adds.", "--explain/--no-explain", default=True)
    out: str = _option("FILE", "File for the program to use.", "--out", "-o", default="program.json")
    candidate: str | None = _option("FILE", "File for the tuned program, even if it was not accepted.")
    record: str | None = _option("FILE", "File for all results, as JSON for moa-dspy report.")
    report: str | None = _option("FILE", "File for all results, as an HTML page.")


@dataclass(frozen=True, kw_only=True)
class Compare(ExampleOptions, CostOptions, GainOptions, ForceOptions):
    """Compare a program with simpler ones at matched spend.

    The simpler programs are its best single model, self-consistency, Self-MoA and MoA. The verdict may be to use the
    single model.
    """

    match: str = _option("UNIT", "What is matched: calls, tokens or usd.", default="calls")
    baseline: list[str] | None = _option(
        "NAME", "single, self-consistency, self-moa, moa. Repeatable.  [default: all]", "--baseline", "-b"
    )
    tolerance: float = _option("SHARE", "Share by which a baseline may spend more.", default=0.1)
    prefer: str = _option(
        "WHAT", "Among programs not shown to be worse: cheapest, or score for the highest.", default="cheapest"
    )
    alpha: float = _option("LEVEL", "Significance level of the tests.", default=0.05)
    out: str | None = _option("FILE", "File for the winner, whichever it is.", "--out", "-o")


@dataclass(frozen=True, kw_only=True)
class Profile(ExampleOptions, CostOptions):
    """Show which stage gains and which loses.

    Every stage of a program's runs is scored: proposals, refinements, aggregates, syntheses.
    """

    contributions: bool = _flag(
        "Also run without each agent in turn, to show what it adds and at what price.", "--contributions"
    )


@dataclass(frozen=True, kw_only=True)
class Report(ForceOptions):
    """Show searches, tunings and programs as one HTML page.

    The page shows history, front, depth, stages, agents, prompts, scores and steps. It needs no network. No model is
    called. A study is only read, and its search may still be running.
    """

    sources: list[str] = _argument(
        "FILE",
        "Reports as JSON, evaluation records, traces, saved programs, or Optuna storages (FILE.db, sqlite:///, "
        "journal:///, ...).",
    )
    out: str = _option("FILE", "The page.", "--out", "-o", default="report.html")
    title: str | None = _option("TEXT", "Title of the page.")
    study_name: str | None = _option("NAME", "Name of the study in a storage that holds several.")


@dataclass(frozen=True, kw_only=True)
class Show(ForceOptions):
    """Show a saved program or a recorded run.

    Of a program: its task, agents, architecture and prompts. Of a trace: its steps and totals, or with --html each
    layer's answers, critiques and changes on one page. No model is called. --json has everything in full.
    """

    file: str = _argument("FILE", "A saved program, or the trace of a run.")
    html: str | None = _option("FILE", "Write a trace as one HTML page.")


@dataclass(frozen=True, kw_only=True)
class Init(ForceOptions):
    """Write a moa.toml for the models that you already have.

    Looks for keys of providers in the environment, and for Ollama, LM Studio, vLLM and llama.cpp on this machine.
    Writes three agents, and prints the price of a question. No model is called.
    """

    out: str = _option("FILE", "The file to write.", "--out", "-o", default="moa.toml")


@dataclass(frozen=True, kw_only=True)
class Doctor(ProgramOptions, CallingOptions):
    """Check every agent with one small call.

    Shows latency, price, context window, and what the model does not support: temperature, system role, schemas,
    log-probabilities. Says what to do about it. The limits apply to each agent.
    """


@dataclass(frozen=True, kw_only=True)
class ServingOptions(TrustOptions, LimitOptions, CallingOptions):
    """Programs for other clients, and limits of each question."""

    programs: list[str] | None = _argument(
        "PROGRAM", "Saved programs, moa.toml files, or folders with them.  [default: the embedded model]", default=None
    )
    named_programs: list[str] | None = _option("FILE", "The same as PROGRAM. Repeatable.", "--program", "-p")

    def __post_init__(self) -> None:
        named = dict.fromkeys([*(self.programs or ()), *(self.named_programs or ())])
        object.__setattr__(self, "programs", list(named) or None)


@dataclass(frozen=True, kw_only=True)
class Serve(ServingOptions):
    """Serve programs over an OpenAI-compatible API.

    Each program is a model called moa/NAME, after its file, or after its folder for a moa.toml. Without PROGRAM, three
    agents run on the embedded model, as moa/local. The limits apply to each question. When a client disconnects, its
    calls are cancelled.
    """

    host: str = _option(
        "ADDRESS", "Where to listen. Addresses other than loopback need --key-env.", default="127.0.0.1"
    )
    port: int = _option("N", "The port; 0 picks a free one.", default=8000, min=0, max=65535)
    key_env: str | None = _option("NAME", "The environment variable with the key that clients must send.")
    concurrency: int = _option("N", "Questions that run at once; further ones get status 429.", default=64, min=1)
    usage_file: str | None = _option("FILE", "Append the usage of each step to FILE, so that a kill does not lose it.")


@dataclass(frozen=True, kw_only=True)
class Mcp(ServingOptions):
    """Serve programs as tools of an MCP server, on standard input and output.

    Each program is a tool. Its arguments are the task's inputs and a budget. The limits apply to each question.
    """


COMMANDS: Final[tuple[type[Command], ...]] = (
    *(Init, Doctor, Ask, Plan, Run, Eval, Optimize, Compare, Profile, Report, Show, Serve, Mcp),
)


def _names_file(text: str) -> bool:
    """Return whether a question is the name of a file, by its suffix or its folder. Such a name has no spaces."""
    if text.split() != [text] or "://" in text:
        return False
    path = Path(text)
    if path.suffix.lower() in _FILES or text.startswith(("./", "../", "~/")):
        return True
    with contextlib.suppress(OSError, ValueError):  # too long for a name, or with a character that none has
        return path.parent != Path() and path.parent != Path(path.anchor) and path.parent.is_dir()
    return False


def parameters(command: type[Command]) -> tuple[inspect.Parameter, ...]:
    """Return the options of a command as Typer's parameters: its own before those that it shares."""
    hints, options = get_type_hints(command), {field.name: field for field in dataclasses.fields(command)}
    names = dict.fromkeys(name for kind in command.__mro__ for name in inspect.get_annotations(kind))
    return tuple(
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if options[name].default is MISSING else options[name].default,
            annotation=Annotated[hints[name], options[name].metadata[_TYPER]],
        )
        for name in names
    )
