"""Facts of a machine that decide where weights go, and whether its memory holds them at all.

It knows numbers of bytes, never memory itself; `engine.weights.residency` makes plans with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import MemoryBudgetError

GIB = 1 << 30
# Left to the system and to this process beside what is counted: 4 GiB, on small hosts a tenth.
HOST_RESERVE = 4 * GIB
HOST_RESERVE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides, of a device and its host.

    Parameters
    ----------
    device_bytes : int
        Free for the engine before anything is loaded.
    host_bytes : int
        Available beside the processes that run.
    unified : bool
        Device and processor share one memory.
    register : bool
        The driver registers host memory for the device.
    read_only_register : bool
        It does so read-only, as a file's mapping is.
    pageable : bool
        The device reads memory that nobody registered.
    """

    device_bytes: int
    host_bytes: int
    unified: bool = False
    register: bool = True
    read_only_register: bool = False
    pageable: bool = False

    @property
    def host_room(self) -> int:
        """Bytes of the host's memory that a model may fill."""
        reserve = min(HOST_RESERVE, int(self.host_bytes * HOST_RESERVE_SHARE))
        return max(self.host_bytes - reserve, 0)


@dataclass(frozen=True, slots=True)
class HostNeed:
    """What a plan asks of the host's memory.

    Parameters
    ----------
    mapped : int
        Bytes that the device reads in the file's pages.
    copied, context : int
        Bytes on the device: the host's too where memory is shared.
    """

    mapped: int
    copied: int
    context: int

    def pinnable(self, machine: Machine) -> int:
        """Most bytes of pages that may be pinned, which the system cannot take back."""
        beside = self.copied + self.context if machine.unified else 0
        return max(machine.host_room - beside, 0)

    def check(self, machine: Machine, from_disk: bool) -> str:
        """A warning, or '' where the memory holds the plan.

        Parameters
        ----------
        machine : Machine
        from_disk : bool
            The user asked to read the file in place, which works from the disk, slowly, where
            the device reads pages that are not pinned.

        Raises
        ------
        MemoryBudgetError
            If it does not: pinned pages beyond the memory have frozen machines.
        """
        if self.mapped <= self.pinnable(machine):
            return ""
        line = (
            f"memory: expected at most {gib(machine.host_room)} of this host's to be needed, found "
            f"{gib(self.mapped)} of mapped weights"
        )
        beside = f"{gib(self.copied)} of copies and {gib(self.context)} of context"
        line += f" + {beside}" if machine.unified else f" (beside {beside} on the device)"
        if from_disk and machine.pageable:
            return f"WARNING: {line}; what does not fit is read from the disk at every use"
        if machine.pageable:
            line += " (--residency mapped reads from the disk what does not fit, slowly)"
        raise MemoryBudgetError(line)


def gib(n_bytes: int) -> str:
    """'80.76 GiB', or MiB where that says more."""
    return f"{n_bytes / GIB:.2f} GiB" if n_bytes >= GIB else f"{n_bytes / 2**20:.1f} MiB"


def host_warning(mapped: int, copied: int, context: int, free: int) -> str:
    """A warning of a model that a processor's memory does not hold; '' where it does.

    Nothing is pinned there, so that the system reads from the disk what does not fit: it works,
    at the disk's speed.

    Parameters
    ----------
    mapped, copied, context : int
        Bytes of the files, of what is held of weights beside them, and of a session.
    free : int
        Bytes of the host's memory that were available before any of it was taken.
    """
    if mapped + copied + context <= free:
        return ""
    return (
        f"WARNING: memory: expected at most {gib(free)} of this host's to be needed, found "
        f"{gib(mapped)} of mapped files + {gib(copied)} of copies + {gib(context)} of context; "
        "what does not fit is read from the disk again for every token"
    )
