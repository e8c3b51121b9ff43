"""A process to attack: of the plugin's own user, outside of its sandbox, with a secret in memory, in its environment and in an open file.

Given to an interpreter as text; never imported. It says in one line where the secret is in memory and which descriptor is of the file, and
then waits. Ends with the host, and by itself after some minutes.
"""

import ctypes
import os
import time

__all__: list[str] = []

_PR_SET_PDEATHSIG, _PR_SET_PTRACER, _SIGKILL = 1, 0x59616D61, 9
_LIFE_S = 300


def _main() -> None:
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    prctl(_PR_SET_PTRACER, ctypes.c_ulong(2**64 - 1), 0, 0, 0)  # where users may trace their children alone: everybody may trace this one
    token = os.environ["ANNEXE_ATTACK_TOKEN"].encode()
    file = os.memfd_create("secret")
    os.write(file, token)
    print(id(token) + bytes.__basicsize__ - 1, file, flush=True)  # noqa: T201 - whoever started it reads this
    time.sleep(_LIFE_S)


if __name__ == "__main__":
    _main()
