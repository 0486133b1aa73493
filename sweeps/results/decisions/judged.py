"""The judgement on a snapshot, made once for all parts of a report that ask for it.

A snapshot never changes, so the last judgement is kept as long as its snapshot lives.
"""

import weakref

from sweeps.results.decisions.judgement import Judgement, judge
from sweeps.results.measures.snapshot import Snapshot

_last: "list[tuple[weakref.ref[Snapshot], Judgement]]" = []


def judged(snapshot: Snapshot) -> Judgement:
    """As `judge`, with the floor of the calibration that fits."""
    for known, judgement in _last:
        if known() is snapshot:
            return judgement
    judgement = judge(snapshot)
    _last[:] = [(weakref.ref(snapshot), judgement)]
    return judgement
