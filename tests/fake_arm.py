"""A program for tests of studies: it says how it was called, and where."""

import os
import pathlib
import sys

if __name__ == '__main__':
  given = dict(arg.removeprefix('--').split('=', 1) for arg in sys.argv[1:])
  log = pathlib.Path(given['log'])
  with log.open('a') as calls:
    calls.write(f'{given["config"]}\n')
  if pathlib.Path(f'{log}.{given["config"]}.fails').exists():
    sys.exit('as it was asked to')
  print('first line')
  print(given['config'], *os.sched_getaffinity(0))
