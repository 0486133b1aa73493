"""How a command line is read: as typer does it, but an option that takes one value may be given once only.

typer takes the last of two values, so a word that was left over in a long command would silently win.
"""

from collections import Counter
from typing import Any

from typer.core import TyperCommand, TyperOption


class Verb(TyperCommand):
    """A command of the program."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words after the command. Raises typer's usage error for an option that comes twice."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option, count in Counter(given).items():
            if not ctx.resilient_parsing and count > 1 and isinstance(option, TyperOption) and not option.multiple:
                ctx.fail(f"{'/'.join([*option.opts, *option.secondary_opts])} is given {count} times; give it once")
        return super().parse_args(ctx, args)
