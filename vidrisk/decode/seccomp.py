"""Seccomp filter that refuses system calls by which a decoder could reach other processes, machines or the kernel.

A refused call fails with EPERM, so that a decoder may continue without it. The numbers are those of Linux's
``asm/unistd.h``; processors other than x86_64 and aarch64 have no filter. The program is classic BPF, see seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import logging
import platform
import struct
import sys

log = logging.getLogger(__name__)

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SECCOMP = {"x86_64": 317, "aarch64": 277}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
CLONE_THREAD = 0x10000
X32_BIT = 0x40000000

# System call → its number on x86_64 and on aarch64; None if the processor does not have it.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "bind": (49, 200),
    "listen": (50, 201),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    # Landlock does not cover these (nor truncate before Linux 6.2), and io_uring would bypass this filter
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "io_uring_setup": (425, 425),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
}

# Instructions of classic BPF (linux/bpf_common.h), and the offsets they read (struct seccomp_data).
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
ALLOW, KILL, REFUSE, ABSENT = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def refuse_system_calls() -> bool:
    """Install the filter for all threads of this process; return False if it cannot be installed.

    It needs ``no_new_privs``.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in AUDIT_ARCH:
        return False
    program = b"".join(filter_of(machine))
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    if libc.syscall(SECCOMP[machine], SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, header):
        log.debug("no seccomp: error %d", ctypes.get_errno())
        return False
    return True


def filter_of(machine: str) -> list[bytes]:
    """Return the BPF program for a machine, one element per instruction."""
    program = [
        _instruction(LOAD, ARCHITECTURE),
        _instruction(IF_EQUAL, AUDIT_ARCH[machine], 1, 0),
        _instruction(RETURN, KILL),  # the calls of another processor have other numbers
        _instruction(LOAD, NUMBER),
    ]
    if machine == "x86_64":
        program += [_instruction(IF_AT_LEAST, X32_BIT, 0, 1), _instruction(RETURN, REFUSE)]
    for number in filter(None, (numbers[list(AUDIT_ARCH).index(machine)] for numbers in REFUSED.values())):
        program += [_instruction(IF_EQUAL, number, 0, 1), _instruction(RETURN, REFUSE)]
    # A filter cannot read the arguments of clone3; libraries fall back to clone if it is absent.
    program += [
        _instruction(IF_EQUAL, CLONE3, 0, 1),
        _instruction(RETURN, ABSENT),
        _instruction(IF_EQUAL, CLONE[machine], 0, 3),
        _instruction(LOAD, FIRST_ARGUMENT),
        _instruction(IF_ANY_BIT, CLONE_THREAD, 1, 0),
        _instruction(RETURN, REFUSE),
        _instruction(RETURN, ALLOW),
    ]
    return program


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
