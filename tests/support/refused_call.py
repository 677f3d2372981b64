"""Start a program for which one system call fails, as under a container engine's seccomp profile.

refused_call.py bpf EPERM PROGRAM ARGUMENT…      whatever it is asked for
refused_call.py bpf:5 EPERM PROGRAM ARGUMENT…    when its command is 5 (BPF_PROG_LOAD)
refused_call.py fcntl:37 EINVAL PROGRAM ARGUMENT…    when its command is 37 (F_OFD_SETLK)
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER = 0  # offset in struct seccomp_data
_COMMAND = {"bpf": 16, "fcntl": 24}  # offset of the argument that says what is asked for, of its lower half
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBERS = {
    "bpf": {"x86_64": 321, "aarch64": 280},
    "clone": {"x86_64": 56, "aarch64": 220},
    "fcntl": {"x86_64": 72, "aarch64": 25},
    "perf_event_open": {"x86_64": 298, "aarch64": 241},
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def main() -> None:
    call, _, command = sys.argv[1].partition(":")
    refusal = (_RETURN, 0, 0, _ERRNO | getattr(errno, sys.argv[2]))
    of_command = ((_LOAD, 0, 0, _COMMAND[call]), (_JUMP_EQUAL, 0, 1, int(command))) if command else ()
    instructions = (
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_EQUAL, 0, len(of_command) + 1, _NUMBERS[call][platform.machine()]),
        *of_command,
        refusal,
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    libc = ctypes.CDLL(None)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        sys.exit("no_new_privs was refused")
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(_Program(len(instructions), code))):
        sys.exit("seccomp was refused")
    os.execv(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
