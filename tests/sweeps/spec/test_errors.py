"""Exit codes are a contract."""

from sweeps.spec import errors


def test_every_error_has_the_exit_code_that_scripts_rely_on() -> None:
    codes = {kind.__name__: kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}
    assert codes == {
        "SweepToolError": 1,
        "UsageError": 2,
        "SweepError": 2,
        "GateFailed": 3,
        "GateUndecided": 4,
        "LegsFailed": 5,
        "DriftError": 6,
        "CorruptData": 7,
        "NoCluster": 69,
        "StorageFailed": 74,
        "Locked": 75,
        "Interrupted": 130,
        "Terminated": 143,
    }
