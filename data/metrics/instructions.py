"""Instructions that code can verify: a table of named checks with parameters.

Data names a check and its parameters, such as `{"check": "max_words", "count": 10}`. Data contains no code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from moa_dspy.data.metrics.metric import Metric, Verdict, field_of, output_of
from moa_dspy.errors import ConfigurationError

__all__ = ["CHECKS", "Instructions", "failed_checks"]


def _words(text: str) -> list[str]:
    """Return the parts between white space that contain a letter or digit."""
    return [word for word in text.split() if re.search(r"\w", word)]


def _lines(text: str) -> list[str]:
    return [line for line in text.strip().splitlines() if line.strip()]


def _bare(text: str) -> str:
    return text.strip().strip("\"'`*").strip()


def _json_value(text: str) -> Any:
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", text, re.DOTALL | re.IGNORECASE)
    try:
        return json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None


def _is_json(text: str, keys: Iterable[str] = ()) -> bool:
    value = _json_value(text)
    return isinstance(value, dict) and all(key in value for key in keys)


def _has_json_values(text: str, values: Mapping[str, Any]) -> bool:
    """Return whether a JSON object has these values, with equal types: true is not 1."""
    parsed = _json_value(text) if _is_json(text, values) else {}
    return all(
        key in parsed and (type(parsed[key]), parsed[key]) == (type(value), value) for key, value in values.items()
    )


def _is_json_numbers(text: str, count: int) -> bool:
    value = _json_value(text)
    return isinstance(value, list) and len(value) == count and all(type(entry) in (int, float) for entry in value)


def _count(text: str, word: str) -> int:
    """Return the number of occurrences of a word or phrase in a text, as whole words."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def _names(answer: str, options: Sequence[str], what: str) -> bool:  # noqa: ARG001 - `what` is for the message
    """Return whether an answer contains one of the options, in the singular or plural."""
    plurals = (f"{option[:-1]}ies" if option.endswith("y") else f"{option}s" for option in options)
    return any(_count(answer, form) for form in (*options, *plurals, *(f"{option}es" for option in options)))


def _each_line(answer: str, passes: Callable[[str], bool]) -> bool:
    return bool(_lines(answer)) and all(map(passes, _lines(answer)))


CHECKS: Mapping[str, tuple[Callable[..., bool], str]] = {
    "lower_case": (lambda answer: answer == answer.lower() and answer != answer.upper(), "be in lower case"),
    "upper_case": (lambda answer: answer == answer.upper() and answer != answer.lower(), "be in upper case"),
    "max_words": (lambda answer, count: 1 <= len(_words(answer)) <= count, "have at most {count} words"),
    "min_words": (lambda answer, count: len(_words(answer)) >= count, "have at least {count} words"),
    "words": (lambda answer, count: len(_words(answer)) == count, "have exactly {count} words"),
    "lines": (lambda answer, count: len(_lines(answer)) == count, "have exactly {count} lines"),
    "line": (
        lambda answer, number, text: len(_lines(answer)) >= number and _count(_lines(answer)[number - 1], text) > 0,
        "have the words {text!r} in line {number}",
    ),
    "words_in_each_line": (
        lambda answer, count: _each_line(answer, lambda line: len(_words(line)) == count),
        "have exactly {count} words in each line",
    ),
    "names": (_names, "name {what}"),
    "names_in_each_line": (
        lambda answer, options, what: _each_line(answer, lambda line: _names(line, options, what)),
        "name {what} in each line",
    ),
    "contains": (lambda answer, text: _count(answer, text) > 0, "have the words {text!r}"),
    "excludes": (lambda answer, text: bool(answer.strip()) and not _count(answer, text), "not have the words {text!r}"),
    "starts_with": (
        lambda answer, text: re.match(rf"\s*{re.escape(text)}(?!\w)", answer) is not None,
        "start with {text!r}",
    ),
    "ends_with": (lambda answer, text: answer.strip().endswith(text), "end with {text!r}"),
    "is": (lambda answer, text: _bare(answer) == text, "be exactly {text!r}"),
    "one_of": (lambda answer, options: _bare(answer).rstrip(".!").lower() in options, "be one of {options}"),
    "no_commas": (lambda answer: bool(answer.strip()) and "," not in answer, "have no commas"),
    "no_digits": (lambda answer: bool(answer.strip()) and not re.search(r"\d", answer), "have no digits"),
    "json": (_is_json, "be a JSON object with the keys {keys}"),
    "json_values": (_has_json_values, "be a JSON object with the values {values}"),
    "json_numbers": (_is_json_numbers, "be a JSON list of {count} numbers"),
    "bullets": (
        lambda answer, count: sum(line.lstrip().startswith(("- ", "* ")) for line in _lines(answer)) == count,
        "have exactly {count} lines that start with '- '",
    ),
    "repeats": (
        lambda answer, word, count: _count(answer, word) == count,
        "have the word {word!r} exactly {count} times",
    ),
    "in_quotes": (
        lambda answer: bool(re.fullmatch(r'\s*(?:"[^"]+"|\u201c[^\u201d]+\u201d)\s*', answer)),
        "stand in double quotes",
    ),
}
"""The function of each check and its requirement in words."""


def failed_checks(text: str, checks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the requirements that a text does not meet, in words. Each check has its name `check` and its parameters.

    Raises:
        ConfigurationError: if a check is unknown or has wrong parameters.
    """
    failed = []
    for check in checks:
        parameters = {key: value for key, value in check.items() if key != "check"}
        if check["check"] not in CHECKS:
            raise ConfigurationError(f"no check named {check['check']!r}; there are: {', '.join(sorted(CHECKS))}")
        passes, requirement = CHECKS[check["check"]]
        try:
            passed = passes(text, **parameters)
            described = requirement.format(**{"keys": [], **parameters})
        except (TypeError, KeyError) as error:
            raise ConfigurationError(f"wrong parameters for the check {check['check']!r}: {error}") from error
        if not passed:
            failed.append(described)
    return failed


@dataclass(frozen=True)
class Instructions(Metric):
    """The output passes every check of the example.

    Attributes:
        field: the output field.
        checks: the field of the example with the list of checks.
    """

    field: str = "answer"
    checks: str = "checks"

    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """Return True if all checks pass. The feedback names those that fail."""
        failed = failed_checks(output_of(prediction, self.field), field_of(example, self.checks, "example"))
        if not failed:
            return Verdict(True, "Right: the answer does all that was asked.")
        return Verdict(False, f"Wrong: the answer should {'; and it should '.join(failed)}.")
