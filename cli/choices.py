"""Which trials a command line asks for: what `plan` prints and `launch` runs, from the same options."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.spec.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options as typed."""

    sweep: str
    preset: str | None = None
    num_workers: int | None = None
    num_steps: int | None = None
    blocks: int = 1
    legs: str | None = None
    set: Sequence[str] = ()

    def as_settings(self) -> dict[str, Any]:
        """The form in which a manifest keeps them."""
        return {**asdict(self), "set": list(self.set)}

    def plan(self) -> "Plan":
        """The plan, folders as seen from here. Raises SweepError for a sweep, a preset or a setting that cannot be."""
        from sweeps.spec.find import load_sweep
        from sweeps.spec.plan import choose_legs, make_plan, with_absolute_paths
        from sweeps.spec.preset import apply_preset, apply_settings

        scaled = apply_preset(load_sweep(self.sweep), self.preset)
        settled = apply_settings(scaled, num_workers=self.num_workers, num_steps=self.num_steps, sets=self.set)
        plan = with_absolute_paths(make_plan(settled, self.blocks))
        return plan if self.legs is None else choose_legs(plan, names_of("--legs", self.legs))


def names_of(option: str, text: str) -> list[str]:
    """The names in an option's value, which commas separate. Raises UsageError for one that comes twice or is empty."""
    from sweeps.spec.errors import UsageError

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name:
            raise UsageError(f"{option} {text!r} holds an empty name; separate names by single commas")
        if names.count(name) > 1:
            raise UsageError(f"{option} names {name} twice")
    return names
