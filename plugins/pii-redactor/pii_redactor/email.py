"""E-mail addresses.

Pure. Runs of local and domain characters hold no ``@``, and quantifiers are possessive: each run is read once as a local part and once
as a domain, never again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["find_emails"]

_ADDRESS = re.compile(r"(?<![\w.%+\-])[\w.%+\-]{1,64}+@[\w\-]{1,63}+(?:\.[\w\-]{1,63}+)++")
# A top-level domain has letters only (any script) or is punycode; this keeps `package@1.2.3` what it is.
_TOP_LEVEL = re.compile(r"[^\W\d_]{2,24}|xn--[a-z0-9\-]{2,59}", re.IGNORECASE)


def find_emails(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, True) for each address."""
    if "@" not in text:
        return
    for match in _ADDRESS.finditer(text):
        if _TOP_LEVEL.fullmatch(match[0].rpartition(".")[2]):
            yield match.start(), match.end(), True
