"""Many small cases in one test.

A test of a millisecond takes several to be made, handed to a process of the suite, and reported: thousands of them take
longer than what they do.
"""

from __future__ import annotations

import functools
import inspect


def together(names, values):
    """As pytest.mark.parametrize, with all cases in one test. A failure says in which case it was."""
    names = (names,) if isinstance(names, str) else tuple(names)

    def decorate(test):
        @functools.wraps(test)
        def every(*direct, **given):
            if direct or given.keys() >= {*names}:  # another test calls it with a case of its own
                test(*direct, **given)
                return
            for value in values:
                case = dict(zip(names, value if len(names) > 1 else (value,), strict=True))
                try:
                    test(**given, **case)
                except BaseException as error:
                    error.add_note(f"with {case}")
                    raise

        signature = inspect.signature(test)
        assert {*names} <= signature.parameters.keys()
        others = [parameter for name, parameter in signature.parameters.items() if name not in names]
        every.__signature__ = signature.replace(parameters=others)
        return every

    return decorate
