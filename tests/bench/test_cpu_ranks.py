"""The benchmark of the ranks' environment measures real steps under each setting."""

import re

import pytest

from bench import cpu_ranks


@pytest.mark.integration
def test_it_prints_a_step_under_each_setting(capsys: pytest.CaptureFixture[str]):
    cpu_ranks.main(["--rounds", "1", "--steps", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(cpu_ranks.SETTINGS)
    assert all(re.fullmatch(r"\w+: [1-9]\d* ms a step; [\d,]+ pages a step", line) for line in lines)


def test_the_ranks_setting_adds_to_the_one_that_keeps_memory():
    assert cpu_ranks.SETTINGS["kept"].items() < cpu_ranks.SETTINGS["ranks"].items()
