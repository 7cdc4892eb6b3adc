"""Which system calls the sandbox's filter lets through: read as the kernel reads it, and tried."""

import errno
import platform
import re
import struct
from pathlib import Path

import pytest

from tasks.evals.calls import ARCHITECTURES, CALLS, NEWER, SOMETIMES, X32, filter_of
from tasks.evals.sandbox import Outcome, run

HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), re.compile(r"#define __NR_(\w+) (\d+)$", re.M)),
    "aarch64": (
        Path("/usr/include/asm-generic/unistd.h"),
        re.compile(r"#define __NR(?:3264)?_(\w+) (\d+)$", re.M),
    ),
}
NAMES = {"fstatat": "newfstatat"}
"""Of aarch64's calls whose numbers are those of others on 32 bits."""
ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
MACHINES = pytest.mark.parametrize("machine", ARCHITECTURES)


def answer(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter says of a call."""
    known = ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("=IIQ6Q", number, known, 0, *arguments, *[0] * (6 - len(arguments)))
    steps, at, held = list(struct.iter_unpack("=HBBI", filter_of(machine))), 0, 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x06:  # BPF_RET | BPF_K
            return int(value)
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (held,) = struct.unpack_from("=I", data, value)
        else:  # BPF_JMP | BPF_JEQ or BPF_JGE, with BPF_K
            at += yes if {0x15: held == value, 0x35: held >= value}[code] else no


def allowed(machine: str) -> set[int]:
    place = list(ARCHITECTURES).index(machine)
    return {number for numbers in CALLS.values() if (number := numbers[place]) is not None}


@MACHINES
def test_what_is_not_listed_is_refused(machine: str) -> None:
    listed, place = allowed(machine), list(ARCHITECTURES).index(machine)
    known = listed | {call.numbers[place] for call in SOMETIMES.values()}
    for number in range(600):
        other = UNKNOWN if number >= NEWER else REFUSE
        if number not in known:
            assert answer(machine, number) == other, number
        elif number in listed:
            assert answer(machine, number) == ALLOW, number
    for number in listed:
        assert answer(machine, number | X32) == REFUSE
        assert answer(machine, number, architecture=0x40000003) == REFUSE  # i386


NEVER = """
    clone clone3 fork vfork unshare setns ptrace process_vm_readv process_vm_writev pidfd_open pidfd_getfd kcmp
    mount umount2 pivot_root chroot open_tree move_mount fsopen fsmount mount_setattr name_to_handle_at
    open_by_handle_at mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat
    setxattr lsetxattr fsetxattr removexattr flock sync syncfs quotactl swapon acct
    socket connect bind listen accept accept4 sendmsg recvmsg sendmmsg recvmmsg
    memfd_create memfd_secret shmget msgget semget mq_open io_setup io_uring_setup userfaultfd mlock mlock2 mlockall
    add_key request_key keyctl bpf perf_event_open seccomp prctl personality capset
    setuid setgid setreuid setresuid setgroups setpriority sched_setscheduler sched_setaffinity ioprio_set
    inotify_init inotify_init1 fanotify_init timer_create signalfd4 rt_sigqueueinfo rt_tgsigqueueinfo tkill
    reboot kexec_load init_module finit_module delete_module iopl ioperm settimeofday clock_settime adjtimex
    sethostname setdomainname syslog vhangup execveat fallocate splice tee vmsplice setrlimit setsid setpgid
"""


def test_what_reaches_beyond_is_never_listed() -> None:
    """Named here once more: who adds a call to the list meets it."""
    assert not set(NEVER.split()) & {*CALLS, *SOMETIMES}
    assert set(SOMETIMES["fcntl"].values) == {0, 1, 2, 3, 4, 1030}, "no locks, leases, owners, or sizes of pipes"
    assert not {0x5412, 0x541C, 0x5452, 0x5422} & set(SOMETIMES["ioctl"].values), "nothing typed into a terminal"
    assert SOMETIMES["prlimit64"].values == (0,) and SOMETIMES["socketpair"].values == (1,)


@MACHINES
@pytest.mark.parametrize("name", SOMETIMES)
def test_an_argument_decides(name: str, machine: str) -> None:
    call = SOMETIMES[name]
    number = call.numbers[list(ARCHITECTURES).index(machine)]
    for value in (*call.values, *range(1 << 12), 0x80000000, 0xFFFFFFFF, 0x5412, 1024, 1031):
        arguments = [7] * 6
        arguments[call.argument] = value
        assert answer(machine, number, *arguments) == (ALLOW if value in call.values else REFUSE), value


@MACHINES
def test_the_numbers_are_the_kernels(machine: str) -> None:
    header, line = HEADERS[machine]
    if not header.is_file():
        pytest.skip("the kernel's headers are not here")
    text = header.read_text()
    if machine == "aarch64":  # what a new architecture has not is behind this
        text = text.partition("#undef __NR_syscalls")[0]
    kernels = {NAMES.get(name, name): int(number) for name, number in line.findall(text)}
    place = list(ARCHITECTURES).index(machine)
    numbers = {name: pair[place] for name, pair in CALLS.items()} | {n: c.numbers[place] for n, c in SOMETIMES.items()}
    for name, number in numbers.items():
        if number is None:
            assert name not in kernels, name
        else:
            assert kernels[name] == number, name


@pytest.mark.usefixtures("boxed")
def test_the_kernel_refuses_them() -> None:
    """Each number that is not listed, with arguments that do no harm where it is not refused."""
    machine = platform.machine()
    place = list(ARCHITECTURES).index(machine)
    listed = allowed(machine) | {call.numbers[place] for call in SOMETIMES.values()}
    asked = sorted({*range(600)} - listed - {335, 336})  # x86_64's uretprobe and uprobe: Linux asks no filter for them
    program = (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); done = []\n"
        f"for number in {asked}:\n"
        "  ctypes.set_errno(0)\n"
        "  found = c.syscall(number, -1, -1, -1, -1, -1, -1), ctypes.get_errno()\n"
        "  if found not in ((-1, 1), (-1, 38)): done.append((number, found))\n"
        "assert not done, done"
    )
    assert run(program) == Outcome("passed")


@pytest.mark.usefixtures("boxed")
@pytest.mark.parametrize(
    "program",
    [
        "import asyncio\nasync def f(): await asyncio.sleep(0.01); return 3\nassert asyncio.run(f()) == 3",
        "import tempfile, os\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "  p = os.path.join(d, 'x'); open(p, 'w').write('a')\n"
        "  os.rename(p, p + 'y'); assert os.listdir(d) == ['xy'] and os.stat(p + 'y').st_size == 1",
        "import sqlite3; c = sqlite3.connect(':memory:'); assert c.execute('select 1 + 1').fetchone() == (2,)",
        "import mmap; m = mmap.mmap(-1, 4096); m[:3] = b'abc'; m.flush(); assert m[:3] == b'abc'",
        "import select, os; r, w = os.pipe(); os.write(w, b'x'); assert select.select([r], [], [], 1)[0] == [r]",
        "import signal; signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.01)\n"
        "signal.pause()",
        "import os, sys; assert not sys.stdout.isatty() and os.cpu_count() and os.getpid() and os.urandom(4)",
        "import time, datetime, secrets, uuid, platform, locale; time.sleep(0.001); uuid.uuid4(); platform.platform()",
        "import decimal, fractions, statistics, heapq, itertools, functools, collections, re, json, math, bisect",
        "import os; f = os.open('x', os.O_RDWR | os.O_CREAT); os.pwritev(f, [b'ab'], 0)\n"
        "b = bytearray(2); os.preadv(f, [b], 0); assert b == b'ab'",
        "import shutil; open('a', 'w').write('x' * 9999); shutil.copyfile('a', 'b'); shutil.move('b', 'c')\n"
        "assert len(open('c').read()) == 9999; shutil.disk_usage('/tmp')",
        "import multiprocessing, threading, concurrent.futures, subprocess, socket, ssl, urllib.request",
    ],
)
def test_what_the_standard_library_needs_is_there(program: str) -> None:
    assert run(program) == Outcome("passed")


@pytest.mark.usefixtures("boxed")
@pytest.mark.parametrize(
    "program",
    [
        "import fcntl, sys; fcntl.flock(open(sys.executable), fcntl.LOCK_SH)",
        "import fcntl, sys; fcntl.lockf(open(sys.executable), fcntl.LOCK_SH)",
        "import fcntl, sys; fcntl.fcntl(open(sys.executable), fcntl.F_SETLEASE, fcntl.F_RDLCK)",
        "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE)",
        "import socket; socket.socket()",
        "import os; os.mkfifo('x')",
    ],
)
def test_what_others_would_feel_is_refused(program: str) -> None:
    """Locks and leases on the system's files, limits of bubblewrap's own process, the disks."""
    outcome = run(program)
    assert outcome.ending == "failed" and "[Errno 1]" in outcome.said, outcome
