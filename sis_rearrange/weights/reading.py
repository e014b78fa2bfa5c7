"""What reading one file may cost, and the errors that reading it can end in.

A weight file comes from a stranger. Everything it declares is held against what it really has, and the work it asks
for is taken from one allowance per file, so that no file of a few bytes can fill the memory or never end.
"""

from __future__ import annotations

from dataclasses import dataclass

from sis_rearrange.errors import InputError

# A config-f snapshot of 1024 px with G, D and G_ema takes about 60,000 operations and 600 tensors.
MAX_OPERATIONS = 500_000
MAX_TENSORS = 20_000
MAX_JSON_VALUES = 10_000  # of one configuration
MAX_JSON_DEPTH = 20
MAX_TEXT = 4_096  # characters of a text in a configuration
MAX_NAME = 300  # characters of the name of a tensor


class Damaged(Exception):
    """The bytes cannot mean what they should: cut off, overwritten, or made up. Becomes an ``InputError``."""


@dataclass
class Reading:
    """One file being read: its name for messages, its size, and what is left of its allowance."""

    where: str
    size: int  # of the file in bytes
    operations: int = MAX_OPERATIONS  # of all pickles in the file, nested ones too
    tensors: int = MAX_TENSORS
    claimed: int = 0  # bytes of the tensors read so far, in the types the file has them in
    copied: int = 0  # bytes of the texts that were turned into bytes
    checked: int = 0  # bytes that were held against a checksum

    def refused(self, what: str) -> InputError:
        """The error for a sound file that is not wanted: ``what`` says why and what to do."""
        return InputError(f"{self.where}: {what}")

    def damaged(self, why: object, kind: str = "pickle") -> InputError:
        """The error for a file whose bytes make no sense."""
        reason = shown(" ".join(str(why).split()), 160) or type(why).__name__  # libraries quote the file
        return InputError(
            f"{self.where}: is a damaged or truncated {kind} ({self.size:,} bytes: {reason}); copy or download it again"
        )

    def spend_operations(self, count: int = 1) -> None:
        """Take pickle operations, or steps as costly as one, from the allowance."""
        self.operations -= count
        if self.operations < 0:
            raise self.refused(
                f"asks for more than {MAX_OPERATIONS:,} steps of unpacking, far more than networks take; refused"
            )

    def spend_copy(self, size: int) -> None:
        """Take a copy of ``size`` bytes, made while a pickle is read, from the allowance."""
        self.copied += size
        if self.copied > 2 * self.size:
            raise self.refused(f"its data claim more memory than the file's {self.size:,} bytes hold; refused")

    def spend_check(self, size: int) -> None:
        """Take the check of ``size`` bytes from the allowance: every byte once, or twice where files lie in a file."""
        self.checked += size
        if self.checked > 2 * self.size:
            raise self.refused(f"its parts claim more than the file's {self.size:,} bytes; refused")

    def spend_tensor(self, size: int) -> None:
        """Take a tensor of ``size`` bytes from the allowance."""
        self.tensors -= 1
        self.claimed += size
        if self.tensors < 0:
            raise self.refused(f"holds more than {MAX_TENSORS:,} tensors, far more than networks have; refused")
        # A stride of 0 lets a tiny file claim terabytes; twice the file leaves room for tied weights.
        if self.claimed > 2 * self.size:
            raise self.refused(f"its tensors claim more memory than the file's {self.size:,} bytes hold; refused")


def shown(text: object, limit: int = 80) -> str:
    """A text out of a file, fit for one line of a message: printable ASCII, and not long.

    Of other things only the type is told: the text of a tuple of the same tuple twice, and so on, has no end.
    """
    text = str(text) if type(text) in (str, int) else f"<{type(text).__name__}>"
    plain = text[: limit + 1].encode("ascii", "backslashreplace").decode()
    plain = "".join(c if c.isprintable() else "?" for c in plain)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."
