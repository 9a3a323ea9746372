"""Hyperparameters: one pydantic model a method, one :func:`Param` a hyperparameter.

A misspelt or unsuitable value is refused when the configuration is built, with a sentence that names the nearest right
one, never in the middle of a training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from denoise_core.errors import UserError, nearest


@dataclass(frozen=True)
class Search:
    """A search space of one hyperparameter; ``kind`` says how Optuna samples it."""

    kind: Literal["uniform", "log", "integer", "choice"]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()


def uniform(low: float, high: float) -> Search:
    """Real numbers from ``low`` to ``high``."""
    return Search("uniform", low, high)


def log(low: float, high: float) -> Search:
    """Positive real numbers from ``low`` to ``high``, uniform in the logarithm."""
    return Search("log", low, high)


def integer(low: int, high: int) -> Search:
    """Whole numbers from ``low`` to ``high``, both included."""
    return Search("integer", low, high)


def choice(*values: Any) -> Search:
    """One of ``values``, in no order."""
    return Search("choice", choices=values)


def Param(  # noqa: N802 - reads as the type that it declares
    default: Any,
    description: str,
    *,
    affects: str = "training",
    paper: str = "",
    search: Search | None = None,
    **limits: Any,
) -> Any:
    """A hyperparameter with its default.

    ``affects`` says what a change of the value concerns, so that trainings may share the rest: ``"data"`` and
    ``"training"`` (every phase), a word that a phase names in ``Phase.depends`` (this phase and those after it),
    ``"length"`` (only how many phases there are) or ``"inference"`` (weights stay as they are). ``paper`` is the
    equation or table that it stands in, ``search`` the default space of ``--search optuna``, ``limits`` are pydantic's
    (``ge``, ``gt``, ``le``, ``lt``).
    """
    extra: dict[str, Any] = {"affects": affects, "paper": paper, "search": search}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class MethodConfig(BaseModel):
    """Base of every method's configuration: frozen, validated, no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def build(cls, values: Mapping[str, Any], owner: str) -> Self:
        """The configuration with ``values`` over the defaults. Raises UserError in one sentence."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise UserError(explain(error, cls, owner)) from None

    @classmethod
    def search_space(cls, name: str) -> Search | None:
        """The default search space of a parameter, or None where it declares none."""
        extra = cls.model_fields[name].json_schema_extra
        return extra.get("search") if isinstance(extra, dict) else None  # type: ignore[return-value]

    @classmethod
    def affects(cls, name: str) -> str:
        """What a change of the parameter affects; see :func:`Param`."""
        extra = cls.model_fields[name].json_schema_extra
        return str(extra.get("affects", "training")) if isinstance(extra, dict) else "training"

    @classmethod
    def inference_names(cls) -> tuple[str, ...]:
        """The parameters that leave the weights alone: one training serves all their values."""
        return tuple(name for name in cls.model_fields if cls.affects(name) == "inference")


def explain(error: ValidationError, model: type[BaseModel], owner: str) -> str:
    """The first fault of a validation as one sentence with the remedy."""
    fault = error.errors()[0]
    name = ".".join(str(part) for part in fault["loc"]) or "value"
    if fault["type"] == "extra_forbidden":
        return f"{owner} has no parameter '{name}': {nearest(name, model.model_fields)}."
    field = model.model_fields.get(name)
    options = get_args(field.annotation) if field is not None else ()
    message = fault["msg"].removeprefix("Value error, ")
    expected = message[0].lower() + message[1:]
    if fault["type"] == "literal_error":
        expected = f"use one of {', '.join(map(repr, options))}"
    return f"{owner}: {name} = {fault['input']!r} is not allowed: {expected}."
