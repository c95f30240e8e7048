"""Where the marks of images stand once a conversation was taken apart."""

from collections.abc import Sequence

from vlmzoo_registry.tasks import IMAGE
from vlmzoo_tasks.rules.exchanges import Exchange, marked


def with_marks(exchanges: Sequence[Exchange], images: int) -> tuple[Exchange, ...]:
    """The exchanges with so many images before the first question, on a line of their own, unless they are marked already."""
    if not images or marked(exchanges, IMAGE):
        return tuple(exchanges)
    first = Exchange(f"{IMAGE * images}\n{exchanges[0].question}", exchanges[0].answer)
    return (first, *exchanges[1:])
