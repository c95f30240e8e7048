"""Work on items ahead of who asks for them, in threads: an encoder does not wait for images that are read meanwhile.

Threads are enough where the work is reading and decoding, which hold no lock of Python, and items need not be pickled.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def read_ahead(
    function: Callable[[Item], Made], items: Iterable[Item], *, threads: int, most: int
) -> Generator[Made, None, None]:
    """What the function makes of each item, in their order: in so many threads, at most so many before they are asked for.

    0 threads: in this one, when it is asked for.
    """
    if not threads:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
