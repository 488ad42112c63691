"""What the commands of the package share: exit statuses and the one line that says what is wrong."""

from __future__ import annotations

import contextlib
import errno
import sys

from loci.runs import printable

EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_RESOURCES = 4
LACKING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def complain(message: str, status: int) -> int:
    """One line on standard error, whatever the names in it are."""
    line = " ".join(printable(message).split())
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(f"{line}\n".encode()) if hasattr(sys.stderr, "buffer") else print(line, file=sys.stderr)
        sys.stderr.flush()
    return status
