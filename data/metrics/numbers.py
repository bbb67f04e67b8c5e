"""The number that a solution ends in, by GSM8K's form and by the common reader, and the metrics that compare it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import dspy

from moa_dspy.data.metrics.metric import TextMetric, vote_key
from moa_dspy.data.metrics.text import denied, ends_with
from moa_dspy.parsing.numbers import numbers, read_number, stated_number, tidied
from moa_dspy.parsing.phrases import TEXT_MAX, answered_part, claims

__all__ = ["Numeric", "ShortNumber", "final_number"]

_SECTIONS_MAX = 50
_LINES_MAX = 20
_LINE_MAX = 1000
_HASHES = re.compile(r"(?<!#)####(?!#)")
_LETTER_A = re.compile(r"^[ \t]*A:([^\n]+)", re.MULTILINE)
_TITLE = re.compile(r"(?:(?:the|my|final|correct|result|solution|answer|is|and)\b[\s*:_]*)+", re.IGNORECASE)
_NUMERAL = re.compile(r"\d{1,2}[.)]\s+(?=[^\W\d])")
_HEADING = re.compile(r"\d{1,2}[.)]\s+[^\W\d]|[^\W\d]+[ #]*\d+\b|[^\d]*\Z")
_LABEL = re.compile(r"[^\d:=]{1,80}[:=]")


def final_number(solution: str) -> Fraction | None:
    r"""Return the number that a solution gives as its answer, or None.

    The first of these that can be read is used.

    | form | examples, all 18 |
    |---|---|
    | after the last `####` (GSM8K) | `#### $18.00`, `#### 18 = 3 * 6`, `#### 3 * 6 = 18 eggs`, `#### Answer: 18` |
    | as any text is read (`parsing.read_number`) | `\boxed{18}`, `The answer is 18.`, `{"answer": 18}`, `18 eggs` |
    | after `A:` at the beginning of a line | `A: 18` |
    | the only number, or the result, of the last line with numbers | `9 * 2 = 18, so she makes $18.` |
    | in this line, the number that was calculated last | `9 * 2 = 18.` and below `She makes $18 with 9 eggs.` |

    A Markdown heading is no answer: `#### Step 2: multiply`, `#### 2. Multiply`, and `#### Check` with text below. An
    expression without its value (`#### 3 * 6`), a range and alternatives (`3 or 4`) are not read. Nor is what follows
    a further question, such as `Question:`, with which base models go on after an answer.
    """
    text = tidied(answered_part(solution)[-TEXT_MAX:])
    sections = [_section(part) for part in _HASHES.split(text)[1:][-_SECTIONS_MAX:]]
    strong, weak = ([value for value, is_answer in sections if is_answer is wanted] for wanted in (True, False))
    if strong:
        return next((value for value in reversed(strong) if value is not None), None)
    value = read_number(text)
    if value is None:
        value = next((value for value in reversed(weak) if value is not None), None)
    if value is None and (lettered := _LETTER_A.findall(text)):
        value = stated_number(lettered[-1])
    if value is None and not any(numbers(claim.answer) for claim in claims(text)):
        value = _last_line(text)
    return value if isinstance(value, Fraction) else None


def _last_line(text: str) -> Fraction | float | None:
    """Return the number of the last line with numbers; of several, the one that the text calculated last."""
    lines = list(islice((line for line in reversed(text.splitlines()) if any(map(str.isdigit, line))), _LINES_MAX))
    last = next((line for line in lines if numbers(line[:_LINE_MAX])), "")
    value = read_number(last)
    if value is not None or not last or len(last) > _LINE_MAX or "=" in last:
        return value
    earlier = (read_number(line) for line in lines[lines.index(last) + 1 :] if "=" in line and len(line) <= _LINE_MAX)
    calculated = next((result for result in earlier if result is not None), None)
    return calculated if calculated in numbers(last) else None


def _section(section: str) -> tuple[Fraction | None, bool]:
    """Return the number of what follows a `####`, and whether it is an answer and not a heading.

    (None, True) is an answer that cannot be read, (None, False) a heading.
    """
    head, _, body = section.partition("\n")
    head, body = head.strip(" \t:*"), body.strip()
    if not head or _TITLE.fullmatch(head):
        below = body.partition("\n")[0]
        return (_statement(below), True) if numbers(below) else (None, False)
    numeral = _NUMERAL.match(head)
    if numeral and numbers(head[numeral.end() :]):
        return _statement(head[numeral.end() :]), not body
    if said := claims(head):
        return stated_number(said[-1].answer), True
    if _HEADING.match(head) and (body or not numbers(head)):
        label = _LABEL.match(head)
        return (stated_number(head[label.end() :]) if label else None), False
    return _statement(head), True


def _statement(text: str) -> Fraction | None:
    value = stated_number(text)
    label = _LABEL.match(text)
    return stated_number(text[label.end() :]) if value is None and label else value


@dataclass(frozen=True)
class Numeric(TextMetric):
    """The final number of the output equals the answer. `final_number` reads both.

    Attributes:
        tolerance: largest allowed difference; 0 means equality of the written numbers.
    """

    tolerance: float = 0.0

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:
        """Return whether the numbers are equal."""
        value, expected = self.number(output, example), final_number(accepted)
        return value is not None and expected is not None and abs(value - expected) <= self.tolerance

    def read(self, output: str, example: dspy.Example) -> str:
        """Return the number of the output that is compared."""
        value = self.number(output, example)
        return "" if value is None else str(value)

    def number(self, output: str, example: dspy.Example) -> Fraction | None:  # noqa: ARG002
        """Return the final number of the output, or None."""
        return final_number(output)


@dataclass(frozen=True)
class ShortNumber(Numeric):
    """The output's number is the answer, in digits or in words.

    Of several numbers, the only one that is not in the question is used. To a question about 5 tickets, "40 dollars
    for 5 tickets" answers 40. An accepted answer in words is the whole output, or its end ("the answer is seven"). A
    number that is denied, or one of two alternatives, is not an answer.

    Attributes:
        question: the field of the example with the question.
    """

    question: str = "question"

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:
        """Return whether the numbers are equal, or the texts if the accepted answer has no digits."""
        if not numbers(accepted):
            return vote_key(output) == vote_key(accepted) or ends_with(output, accepted)
        return super().compare(output, accepted, example) and not denied(output, accepted)

    def number(self, output: str, example: dspy.Example) -> Fraction | None:
        """Return the number that the output states, else its only number that is not in the question."""
        line = output.strip()
        value = final_number(line)
        value = value if value is not None else (None if "\n" in line else stated_number(tidied(line)))
        if value is not None:
            return value
        new = set(numbers(output)) - set(numbers(str(example.get(self.question, ""))))
        return new.pop() if len(new) == 1 else None
