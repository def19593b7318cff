"""Studies: many runs of gradlens, resumed where they were cut.

A study is a list of arms. An arm is one command, in a folder of its own, on a
core of its own; one that is done is not done again.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import hashlib
import json
import os
import pathlib
import queue
import subprocess
import sys
from typing import Any, NamedTuple

from absl import flags

VARIANT = flags.DEFINE_enum(
    'variant', 'all', ['all', 'smoke'], 'The study, or a few steps of it.'
)
JOBS = flags.DEFINE_integer('jobs', 2, 'Runs at a time, each on one core.')
ROOT = pathlib.Path(__file__).parents[1]


class Folders(NamedTuple):
  """Where a study lies.

  Attributes:
    runs: what is done stays there.
    results: tables.
    figures: drawn from these.
  """

  runs: pathlib.Path
  results: pathlib.Path
  figures: pathlib.Path


def folders(here: pathlib.Path, variant: str) -> Folders:
  """Of the study in `here`: only the whole of it has results to commit."""
  if variant == 'all':
    runs = ROOT / 'runs' / here.name
    return Folders(runs, here / 'results', here / 'figures')
  runs = ROOT / 'runs' / f'{here.name}-{variant}'
  return Folders(runs, runs / 'results', runs / 'figures')


class Arm(NamedTuple):
  """One run of a study.

  Attributes:
    labels: what it is in the study's tables, by column.
    program: a module that takes `--config`, and `--workdir` if it is a run.
    config: file and argument.
    flags: others, of the program.
  """

  labels: dict[str, Any]
  program: str
  config: str
  flags: tuple[str, ...] = ()

  @property
  def name(self) -> str:
    """Of its folder."""
    return '-'.join(map(str, self.labels.values()))

  def command(
      self, folder: pathlib.Path = pathlib.Path('runs')
  ) -> list[str]:
    """What runs it, without the interpreter; and what it is known by."""
    workdir = ()
    if self.program == 'gradlens.main':
      workdir = (f'--workdir={folder / self.name}',)
    return ['-m', self.program, f'--config={self.config}', *self.flags,
            *workdir]


class Outcome(NamedTuple):
  """What is known of an arm that is done.

  Attributes:
    config_hash: 12 digits of the whole config's, or of the command's where the
      program leaves no config.
    commit: that it ran on; with '+' if files were changed.
    cpu_seconds: of all its processes, in the last try.
    printed: the last line of its output.
  """

  config_hash: str
  commit: str
  cpu_seconds: float
  printed: str


def run(
    arms: Sequence[Arm], folder: pathlib.Path, jobs: int,
    say: Callable[[str], None] = print,
) -> dict[str, Outcome]:
  """Runs what is not done yet, `jobs` at a time.

  Args:
    arms: of different names.
    folder: of the study; of each arm it has a folder and a log.
    jobs: how many at a time, each on a core of its own.
    say: is told of every arm that ends.

  Returns:
    The outcomes, by name of the arm.

  Raises:
    ValueError: arms share a name; or one was done from another command.
    RuntimeError: an arm failed; its log is named. Others that had begun are
      ended first, and go on when the study is started again.
  """
  names = [arm.name for arm in arms]
  if len(set(names)) < len(names):
    raise ValueError(f'arms share a name: {sorted(names)}')
  folder.mkdir(parents=True, exist_ok=True)
  cores = queue.SimpleQueue()
  own = sorted(os.sched_getaffinity(0))
  for i in range(jobs):
    cores.put(own[i % len(own)])
  outcomes, begun = {}, set()
  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    waiting = {
        pool.submit(_one, arm, folder, cores, begun): arm for arm in arms
    }
    try:
      for future in concurrent.futures.as_completed(waiting):
        arm = waiting[future]
        outcomes[arm.name] = future.result()
        say(f'{len(outcomes)} of {len(arms)}: {arm.name},'
            f' {outcomes[arm.name].cpu_seconds:.0f} s of CPU time')
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      for process in list(begun):
        process.terminate()
      raise
  return {name: outcomes[name] for name in names}


def _one(
    arm: Arm, folder: pathlib.Path, cores: queue.SimpleQueue, begun: set
) -> Outcome:
  done = folder / f'{arm.name}.json'
  command = arm.command()  # wherever the folder lies
  if done.exists():
    content = json.loads(done.read_text())
    if content.pop('command') != command:
      raise ValueError(
          f'{done} is of another command; remove it to run this one.'
      )
    return Outcome(**content)
  core = cores.get()
  try:
    outcome = _execute(arm, folder, core, begun)
  finally:
    cores.put(core)
  temporary = done.with_suffix('.tmp')
  temporary.write_text(json.dumps(dict(command=command, **outcome._asdict())))
  temporary.replace(done)
  return outcome


def _execute(
    arm: Arm, folder: pathlib.Path, core: int, begun: set
) -> Outcome:
  environ = os.environ | dict(
      JAX_COMPILATION_CACHE_DIR=str(folder.parent / 'compiled'),
      # A hundred small programs of every arm, too: seconds of each.
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
      PYTHONPATH=str(ROOT),
      PYTHONHASHSEED='0',  # tasks of the zoo draw according to it
  )
  commit = _commit()
  log = folder / f'{arm.name}.log'
  with log.open('a') as errors:
    process = subprocess.Popen(
        ['taskset', '-c', str(core), sys.executable, *arm.command(folder)],
        cwd=ROOT,
        env=environ, text=True, stdout=subprocess.PIPE, stderr=errors,
    )
    begun.add(process)
    with process.stdout:
      output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
  begun.discard(process)
  if process.returncode:
    raise RuntimeError(
        f'{arm.name} ended with code {process.returncode}; see {log}'
    )
  lines = output.strip().splitlines()
  return Outcome(
      _hash(arm, folder), commit, used.ru_utime + used.ru_stime,
      lines[-1] if lines else '',
  )


def _hash(arm: Arm, folder: pathlib.Path) -> str:
  config = folder / arm.name / 'config.json'
  content = (
      json.loads(config.read_text()) if config.exists() else arm.command()
  )
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _commit() -> str:
  def git(*args):
    return subprocess.run(
        ['git', *args], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()

  changed = git('status', '--porcelain', '--untracked-files=no')
  return git('rev-parse', '--short=12', 'HEAD') + ('+' if changed else '')
