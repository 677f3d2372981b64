"""Lines for the log, written by threads that go on whatever becomes of them."""

from contextlib import suppress

ANY_HANDLER = suppress(Exception)
"""Around a line: what a handler of the application raises, as one that sends mail may, is not to end delivery."""
