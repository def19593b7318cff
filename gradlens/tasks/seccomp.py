"""System calls that programs in the sandbox do without, as a kernel filter.

Shared memory and memory files are in no limit of a process, and the others are
where kernels had their bugs. They fail with "operation not permitted".
"""

import platform
import struct

# Name -> number on x86_64, number on aarch64.
_CALLS = {
    'shmget': (29, 194), 'shmat': (30, 196), 'semget': (64, 190),
    'msgget': (68, 186), 'memfd_create': (319, 279), 'memfd_secret': (447, 447),
    'ptrace': (101, 117), 'unshare': (272, 97), 'mount': (165, 40),
    'add_key': (248, 217), 'request_key': (249, 218), 'keyctl': (250, 219),
    'bpf': (321, 280), 'userfaultfd': (323, 282),
    'perf_event_open': (298, 241), 'io_uring_setup': (425, 425),
}
# Their columns, and how the kernel names them to the filter.
_MACHINES = {'x86_64': (0, 0xC000003E), 'aarch64': (1, 0xC00000B7)}
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # of classic BPF
_NUMBER_AT, _MACHINE_AT = 0, 4  # in what the kernel shows the filter
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050001, 0x7FFF0000
# Numbers from here on are another way to call the same, on x86_64.
_SECOND_TABLE = 0x40000000


def denied() -> bytes:
  """The filter, for bubblewrap.

  Raises:
    RuntimeError: on a machine whose system calls are not known here.
  """
  machine = platform.machine()
  if machine not in _MACHINES:
    raise RuntimeError(
        f'the system calls of {machine!r} are not known; they are of '
        f'{", ".join(_MACHINES)}'
    )
  column, name = _MACHINES[machine]
  # Each is an operation, how many to skip if it holds and if not, and a value.
  program = [
      (_LOAD, 0, 0, _MACHINE_AT), (_EQUAL, 1, 0, name), (_RETURN, 0, 0, _KILL),
      (_LOAD, 0, 0, _NUMBER_AT),
      (_AT_LEAST, 0, 1, _SECOND_TABLE), (_RETURN, 0, 0, _REFUSE),
  ]
  for numbers in _CALLS.values():
    program += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _REFUSE)]
  program.append((_RETURN, 0, 0, _ALLOW))
  return b''.join(struct.pack('=HBBI', *step) for step in program)
