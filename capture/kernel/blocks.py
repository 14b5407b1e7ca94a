"""Functions that hold something for the length of a `with` block: `contextlib`, as far as the init path needs it.

Importing that takes as long as half a dozen modules of ours.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import contextmanager as contextmanager
else:

    class _Block:
        """Runs a generator up to its `yield` when the block begins, and the rest of it when the block ends."""

        def __init__(self, steps):
            self.steps = steps

        def __enter__(self):
            return next(self.steps)

        def __exit__(self, _kind, error, _trace):
            try:
                if error is None:
                    next(self.steps)
                else:
                    self.steps.throw(error)
            except StopIteration:
                return error is not None
            except BaseException as raised:
                if raised is error:
                    return False
                raise
            raise AssertionError("a block yields once")

    def contextmanager(function):
        """A generator function that yields once, as what `with` takes."""

        def block(*arguments, **named):
            return _Block(function(*arguments, **named))

        block.__doc__, block.__name__ = function.__doc__, function.__name__
        return block
