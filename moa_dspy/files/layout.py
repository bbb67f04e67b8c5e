"""What a program file looks like: which parts it has, and what each of them is.

Checked before anything is made of it, so that a damaged file is refused with the place of the damage. What an
architecture, a type or a provenance may be is known where these are made.
"""

from __future__ import annotations

import re
from typing import Any

import pydantic

__all__ = ["damage_in"]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)


class _Settings(_Part):
    prefix: str
    desc: str


class _Field(_Part):
    type: dict[str, Any] = pydantic.Field(alias="is")
    extra: _Settings


class _Task(_Part):
    name: str
    instructions: str
    inputs: dict[str, _Field] = pydantic.Field(min_length=1)
    outputs: dict[str, _Field] = pydantic.Field(min_length=1)


class _PromptField(_Part):
    prefix: str
    description: str


class _Prompt(_Part):
    instructions: str
    fields: list[_PromptField]


class _Nearest(_Part):
    k: int
    fields: list[str]
    vectorizer: str


class _Predictor(_Part):
    demos: list[dict[str, Any]]
    signature: _Prompt
    nearest: _Nearest | None = None


class _Content(_Part):
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    architecture: dict[str, Any]
    task: _Task
    predictors: dict[str, _Predictor]


def damage_in(content: object) -> str | None:
    """Return where ``content`` differs from a program file, and how; None where it does not."""
    try:
        _Content.model_validate(content)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "missing":
            return f"{place} is missing"
        message = re.sub(r" or instance of \w+| after validation", "", problem["msg"], flags=re.IGNORECASE)
        return f"{place}: {message[:1].lower()}{message[1:]}".replace("dictionary", "object")
    return None
