"""A dataclass among a verb's parameters is a group of options."""

import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from cli.grouping import takes_groups

WARM = 20.0


@dataclass(frozen=True, kw_only=True)
class Weather:
    place: Annotated[str, typer.Argument(metavar="PLACE")]
    degrees: Annotated[float, typer.Option(metavar="C", help="How warm.")] = WARM


@takes_groups
def forecast(*, day: str = "today", weather: Weather, short: bool = False) -> str:
    """Say how the weather will be."""
    said = f"{day} {weather.place} {weather.degrees:g} {short}"
    typer.echo(said)
    return said


APP = typer.Typer()
APP.command()(forecast)


def test_the_fields_stand_where_the_group_stood() -> None:
    assert list(inspect.signature(forecast).parameters) == ["day", "place", "degrees", "short"]
    assert forecast.__doc__ == "Say how the weather will be."


def test_a_command_line_fills_the_group() -> None:
    done = CliRunner().invoke(APP, ["Bath", "--degrees", "5", "--day", "tomorrow"])
    assert (done.exit_code, done.output) == (0, "tomorrow Bath 5 False\n")


def test_a_field_without_a_default_is_required_and_another_has_its_default() -> None:
    assert CliRunner().invoke(APP, []).exit_code == 2
    assert forecast(place="Bath") == "today Bath 20 False"
