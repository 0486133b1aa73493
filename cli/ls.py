"""`ls`: which experiments there are and how each stands, from storage alone."""

import json

from cli.options import AsJson, Storage


def ls(
    as_json: AsJson = False,
    storage: Storage = None,
) -> None:
    """List the experiments, oldest first."""
    from cli.console import note, out, table, warn
    from sweeps.records.home import storage_root
    from sweeps.records.listing import describe_experiments

    root = storage_root(storage)
    listed = describe_experiments(root)
    for experiment in listed:
        if experiment.damage is not None:
            warn(f"{experiment.id}: {experiment.damage}")
    if as_json:
        keys = ("id", "path", "sweep", "state", "started_utc")
        experiments = [{key: getattr(each, key) for key in keys} for each in listed]
        document = {"schema": "nanochat-sweep/ls/1", "storage": root, "experiments": experiments}
        out(json.dumps(document, indent=2, ensure_ascii=False))
    elif listed:
        rows = [(each.id, each.sweep or "-", each.state, _minute(each.started_utc)) for each in listed]
        out(table(("experiment", "sweep", "state", "started (UTC)"), rows))
        note(f"in {root}")
    else:
        note(f"no experiments in {root}; `nanochat-sweep launch` makes one, --storage looks elsewhere")


def _minute(utc: str | None) -> str:
    from sweeps.records.clock import recorded_moment

    started = recorded_moment(utc)
    return "-" if started is None else f"{started.isoformat(' ', 'minutes')[:16]}"
