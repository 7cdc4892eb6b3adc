"""The system calls that a program in the sandbox may make, and the filter that refuses all others (seccomp(2)).

Python's standard library reads, computes, and writes to its own files with them. Left out is what makes processes,
threads, connections, mounts or keyrings, what changes a file's attributes or locks it, what shares or pins memory,
what looks at other processes, what the kernel runs by itself, and whatever a newer kernel may add.
"""

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What the kernel calls a processor (linux/audit.h)."""

CALLS: dict[str, tuple[int | None, int | None]] = {
    # A program's beginning and end.
    "execve": (59, 221),
    "arch_prctl": (158, None),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # Its own memory.
    "brk": (12, 214),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "msync": (26, 227),
    # Open files.
    "open": (2, None),
    "openat": (257, 56),
    "creat": (85, None),
    "close": (3, 57),
    "close_range": (436, 436),
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "lseek": (8, 62),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    "ftruncate": (77, 46),
    "truncate": (76, 45),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "fadvise64": (221, 223),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "eventfd2": (290, 19),
    # What lies where.
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "umask": (95, 166),
    # Waiting, time and signals, its own among them.
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "futex": (202, 98),
    "pause": (34, None),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "alarm": (37, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "wait4": (61, 260),
    "waitid": (247, 95),
    # What it is.
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getgroups": (115, 158),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "getpriority": (140, 141),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "capget": (125, 90),
    # Two ends within the program, as asyncio has them.
    "sendto": (44, 206),
    "recvfrom": (45, 207),
}
"""By name, the number on x86_64 and on aarch64; None where there is none."""


@dataclass(frozen=True)
class Sometimes:
    """A call that is allowed where an argument, counted from 0, has one of these values."""

    numbers: tuple[int, int]
    argument: int
    values: tuple[int, ...]


SOMETIMES = {
    # Copies and flags; not locks, leases, owners or sizes of pipes.
    "fcntl": Sometimes((72, 25), 1, (0, 1, 2, 3, 4, 1030)),
    # Whether it is a terminal, and how large (TCGETS, TCGETS2, TIOCGWINSZ), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
    "ioctl": Sometimes((16, 29), 1, (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    "prlimit64": Sometimes((302, 261), 0, (0,)),  # its own
    "socketpair": Sometimes((53, 199), 0, (1,)),  # AF_UNIX
}
NEWER = 424
"""Calls from here on came after Linux 5.0: they are answered as by a kernel that has none of them, since a C library
then does without."""
X32 = 0x40000000
"""Numbers from here on are a second set of the same calls, on x86_64."""

_LOAD, _EQUAL, _AT_LEAST, _ANSWER = 0x20, 0x15, 0x35, 0x06
_ALLOWED = 0x7FFF0000
_REFUSED, _UNKNOWN = (0x00050000 | number for number in (errno.EPERM, errno.ENOSYS))
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`; an argument has eight bytes, the lower four of them first."""


def filter_of(machine: str) -> bytes:
    """A program of classic BPF, whose steps are (code, jump if so, jump if not, value)."""
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, ARCHITECTURES[machine]), (_ANSWER, 0, 0, _REFUSED)]
    steps += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, X32), (_ANSWER, 0, 0, _REFUSED)]
    place = list(ARCHITECTURES).index(machine)
    for number in [number for numbers in CALLS.values() if (number := numbers[place]) is not None]:
        steps += [(_EQUAL, 0, 1, number), (_ANSWER, 0, 0, _ALLOWED)]
    for call in SOMETIMES.values():
        looked_at = [*_looked_at(call)]
        steps += [(_EQUAL, 0, len(looked_at), call.numbers[place]), *looked_at]
    steps += [(_AT_LEAST, 0, 1, NEWER), (_ANSWER, 0, 0, _UNKNOWN), (_ANSWER, 0, 0, _REFUSED)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _looked_at(call: Sometimes) -> Iterator[tuple[int, int, int, int]]:
    """Its argument decides. The kernel takes four bytes of each of these."""
    yield _LOAD, 0, 0, _ARGUMENTS + 8 * call.argument
    for value in call.values:
        yield _EQUAL, 0, 1, value
        yield _ANSWER, 0, 0, _ALLOWED
    yield _ANSWER, 0, 0, _REFUSED
