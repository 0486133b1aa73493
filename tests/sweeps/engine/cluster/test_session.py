"""What a cluster's start says when it fails."""

from sweeps.engine.cluster.session import too_slow_a_start

RAYS = (
    "The current node timed out during startup. This could happen because some of the raylet failed to startup or the "
    "GCS has become overloaded."
)


def test_a_start_that_took_too_long_names_the_busy_machine_and_the_way_out() -> None:
    failure = too_slow_a_start(Exception(RAYS))
    assert failure is not None
    assert failure.exit_code == 69
    assert "too busy" in str(failure)
    assert "give the command again" in str(failure)


def test_any_other_failure_of_a_start_stays_what_it_is() -> None:
    assert too_slow_a_start(Exception("no space left on device")) is None
