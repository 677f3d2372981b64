"""What runs around a fork, to its end, whatever signal handlers of the application raise meanwhile.

What a hook of ``os.register_at_fork`` raises is printed and forgotten. If that is the SystemExit of a handler of
SIGTERM, or a KeyboardInterrupt, the application goes on. So it is kept, and raised again after the fork.
"""

import os
import threading
from collections.abc import Callable
from ctypes import c_void_p, cast, py_object, pythonapi
from functools import partial

_TRIES = 3  # of a step that was interrupted


class Hooks:
    """Runs steps before a fork, and steps after it in the parent and in the child; each can be called twice."""

    def __init__(self) -> None:
        self._kept = _Kept()

    def register(
        self,
        before: Callable[[], object],
        after_in_parent: Callable[[], object],
        after_in_child: Callable[[], object],
    ) -> None:
        """Have the interpreter run them at each fork of this process."""
        os.register_at_fork(after_in_child=self._kept.forget)  # it is the parent's
        os.register_at_fork(
            before=partial(self._run, before),
            after_in_parent=partial(self._run, after_in_parent),
            after_in_child=partial(self._run, after_in_child),
        )
        # The main thread, which alone runs signal handlers, makes such a call as soon as it is in a function of Python
        # again. This one is in C: so that is the function which has called ``os.fork``, and no hook.
        truth = cast(pythonapi.PyObject_IsTrue, c_void_p)
        raise_later = partial(pythonapi.Py_AddPendingCall, truth, py_object(self._kept))
        os.register_at_fork(after_in_parent=raise_later, after_in_child=raise_later)

    def _run(self, step: Callable[[], object]) -> None:
        for _ in range(_TRIES):
            try:
                step()
            except BaseException as error:
                if threading.current_thread() is not threading.main_thread():
                    raise
                self._kept.error = error
            else:
                return


class _Kept:
    """An error that asking for the truth of this raises, once."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def forget(self) -> None:
        self.error = None

    def __bool__(self) -> bool:
        if (error := self.error) is not None:
            self.error = None
            raise error
        return False
