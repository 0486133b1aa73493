"""Options that several verbs take together, as one parameter.

Typer reads the parameters of a verb. A verb that `takes_groups` may have a parameter that is a dataclass: typer sees
the dataclass's fields in its place, and the verb gets the dataclass.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

_Result = TypeVar("_Result")


def takes_groups(verb: Callable[..., _Result]) -> Callable[..., _Result]:
    """The verb with the fields of its dataclasses as parameters; all are passed by name."""
    kinds = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in kinds.items() if dataclasses.is_dataclass(kind)}
    shown: list[Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in groups:
            shown += _fields_of(groups[name])
        else:
            shown.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=kinds[name]))

    signature = inspect.Signature(shown)

    @wraps(verb)
    def called(**typed: Any) -> _Result:
        bound = signature.bind(**typed)
        bound.apply_defaults()
        given = bound.arguments
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
        return verb(**given)

    called.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return called


def _fields_of(kind: Any) -> list[Parameter]:
    kinds = get_type_hints(kind, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=kinds[field.name],
        )
        for field in dataclasses.fields(kind)
    ]
