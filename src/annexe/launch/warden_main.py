"""The warden's program: waits for its host's end, then clears away what the host left.

Run by path as ``python -I -S warden_main.py HOST_PID RECORDS UIDS_FOLDER FIRST_UID LAST_UID SYS_PATH…``, never imported. It imports next
to nothing while it waits, for it waits as long as its host lives.

Source: docs/adr/0060-a-warden-outlives-the-host.md.
"""

import os
import select
import sys

__all__ = ["main"]


def _wait_for_the_end_of(host_pid: int) -> None:
    try:
        host = os.pidfd_open(host_pid)
    except ProcessLookupError:
        return
    if os.getppid() == host_pid:  # else it died before, and the number is somebody else's
        select.select([host], [], [])


def _clear(records: str, uids_folder: str, first_uid: int, last_uid: int, host_pid: int) -> None:
    from pathlib import Path

    from annexe.launch.sweep import LaunchRecords
    from annexe.launch.uids import UidAllocator
    from annexe.sandbox.cgroup_probe import find_control_groups

    LaunchRecords(Path(records)).sweep(host_pid=host_pid)
    if uids_folder:
        UidAllocator(uids=range(first_uid, last_uid + 1), folder=Path(uids_folder)).sweep()
    groups, _ = find_control_groups(may_move_host=False)
    groups.sweep()
    groups.close()


def main() -> None:
    """Wait, then act."""
    host_pid, records, uids_folder, first_uid, last_uid, *path = sys.argv[1:]
    _wait_for_the_end_of(int(host_pid))
    sys.path[:] = path
    _clear(records, uids_folder, int(first_uid), int(last_uid), int(host_pid))


if __name__ == "__main__":
    main()
