"""Values in one short line, and as HTML for notebooks.

The texts of models are shown as texts: the template escapes them, and characters that reorder a line are removed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moa_dspy.json_safe import printable

if TYPE_CHECKING:
    import jinja2

__all__ = ["Displayed", "Table", "environment", "one_line"]

_VALUE: Final = 60
_LINE: Final = 300
_TEXT: Final = 5_000
_ROWS: Final = 200


@dataclass(frozen=True)
class Table:
    """A table of the HTML form.

    Attributes:
        title: what its rows are.
        head: names of the columns.
        rows: their cells.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Displayed:
    """A value with a short ``repr`` and an HTML form. Subclasses say what is worth showing."""

    def _facts(self) -> Mapping[str, Any]:
        """Return the main properties by name. None is not shown."""
        raise NotImplementedError

    def _tables(self) -> Sequence[Table]:
        """Return the details, for the HTML form only."""
        return ()

    def __repr__(self) -> str:
        """Return the main properties in one line."""
        return one_line(type(self).__name__, self._facts())

    def __str__(self) -> str:
        """Return the same. Subclasses may say more."""
        return repr(self)

    def _repr_html_(self) -> str:
        """Return the HTML form. Long texts are shortened, and long tables are cut."""
        facts = {name: _shortened(value) for name, value in self._facts().items() if value is not None}
        tables = [
            (table, [[_shortened(cell) for cell in row] for row in table.rows[:_ROWS]]) for table in self._tables()
        ]
        template = _environment().get_template("display.html.j2")
        return printable(template.render(title=type(self).__name__, facts=facts, tables=tables))


def one_line(name: str, facts: Mapping[str, Any]) -> str:
    """Return ``name(fact=value, ...)``, shortened to 300 characters, values to 60. None is left out."""
    parts = (f"{key}={_brief(value)}" for key, value in facts.items() if value is not None)
    return _cut(f"{name}({', '.join(parts)}", _LINE - 1) + ")"


def environment(packages: Sequence[str], finalize: Callable[[Any], Any]) -> jinja2.Environment:
    """Return a Jinja2 environment that escapes everything and finds the templates of packages and of this one.

    Args:
        packages: names of the packages whose folders have the templates.
        finalize: turns each value into what is printed.
    """
    import jinja2  # most processes show nothing as HTML

    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "") for name in (*packages, "moa_dspy")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _environment() -> jinja2.Environment:
    return environment((), lambda value: "" if value is None else value)


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return repr(_cut(printable(value), _VALUE))
    return _cut(printable(" ".join(str(value).split())), _VALUE)


def _shortened(value: Any) -> str:
    return _cut(f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value), _TEXT)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
