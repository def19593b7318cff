"""experiments/launch/: what its scripts would run, and how they go on."""

import atexit
import functools
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time

from absl.testing import absltest, parameterized
import yaml

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / 'experiments' / 'launch'
# common.sh is checked with each of the scripts that read it.
SCRIPTS = [path.name for path in sorted(LAUNCH.glob('*.sh'))
           if path.name != 'common.sh']
VARIABLES = ('NAME', 'ZONE', 'PROJECT', 'SPOT', 'CONFIG', 'WORKDIR', 'VERSION',
             'WORKER', 'IMAGE', 'CLUSTER', 'DRY_RUN')
RUN = ['--config=configs/toy.py:correction=pcgrad', '--workdir=gs://b/run']
SLICE = ['--name=mine', '--zone=us-west4-a', '--accelerator_type=v5litepod-64',
         '--version=v2-alpha-tpuv5-lite']
JOB = ['--name=mine', '--image=registry/mine:1', '--topology=8x8',
       '--accelerator=tpu-v5-lite-podslice', *RUN]
XPK = ['--cluster=ours', '--zone=us-west4-a', '--tpu_type=v5litepod-64',
       '--name=mine', '--image=registry/mine:1', *RUN]
MAIN = 'python -m gradlens.main ' + ' '.join(RUN)

# Answers to `describe` are the lines of a file, one after the other, the last
# one again and again; to reading the exit status, the content of another. Where
# there is a checkout, that is the only host, and commands run on it.
_GCLOUD = """#!/bin/bash
echo "$*" >> "$FAKE/calls"
case "$*" in
  *' describe '*)
    head -n 1 "$FAKE/states"
    if (($(wc -l < "$FAKE/states") > 1)); then sed -i 1d "$FAKE/states"; fi
    ;;
  *' ssh '*)
    for word; do
      [[ $word != --command=* ]] || command=${word#*=}
    done
    if [[ -e $FAKE/gradlens ]]; then
      cd "$FAKE" && bash -c "$command"
    elif [[ $command == cat* ]]; then
      cat "$FAKE/status"
    fi
    ;;
esac
"""


@functools.cache
def no_cloud():
  """A folder of programs that stand before the real ones, and fail."""
  folder = pathlib.Path(tempfile.mkdtemp())
  atexit.register(shutil.rmtree, folder)
  for name in ('gcloud', 'kubectl', 'xpk'):
    (folder / name).write_text('#!/bin/bash\nexit 9\n')
    (folder / name).chmod(0o755)
  return folder


def script(name, *args, **environ):
  path = f'{no_cloud()}:{os.environ["PATH"]}'
  inherited = {k: v for k, v in os.environ.items() if k not in VARIABLES}
  environ = inherited | dict(PATH=path) | environ
  return subprocess.run(
      ['bash', str(LAUNCH / name), *args], env=environ, text=True,
      capture_output=True, timeout=60,
  )


def commands(name, *args, **environ):
  """What a script would run, as lists of words."""
  program = script(name, *args, DRY_RUN='1', **environ)
  assert program.returncode == 0, program.stderr
  return [shlex.split(line) for line in program.stdout.splitlines()]


def remote(words):
  """The words of a command that `gcloud ... ssh` runs on hosts."""
  command, = [word for word in words if word.startswith('--command=')]
  return shlex.split(command.partition('=')[2])


class ShellcheckTest(parameterized.TestCase):

  @parameterized.parameters(*SCRIPTS)
  def test_has_nothing_to_say(self, name):
    if shutil.which('shellcheck') is None:
      if os.environ.get('CI') == 'true':
        self.fail('shellcheck is missing')
      self.skipTest('shellcheck is missing')
    program = subprocess.run(
        ['shellcheck', '--external-sources', '--check-sourced', LAUNCH / name],
        cwd=ROOT, capture_output=True, text=True,
    )
    self.assertEqual((program.returncode, program.stdout), (0, ''))


class TpuVmTest(parameterized.TestCase):

  def test_create(self):
    made, described = commands(
        'tpu_vm.sh', 'create', *SLICE, '--spot', '--service_account=me@p.iam'
    )
    self.assertEqual(
        ' '.join(made),
        'gcloud compute tpus queued-resources create mine --node-id=mine'
        ' --accelerator-type=v5litepod-64'
        ' --runtime-version=v2-alpha-tpuv5-lite --spot'
        ' --service-account=me@p.iam --zone=us-west4-a',
    )
    self.assertEqual(
        ' '.join(described),
        'gcloud compute tpus queued-resources describe mine'
        ' --format=value(state.state) --zone=us-west4-a',
    )
    made, _ = commands('tpu_vm.sh', 'create', *SLICE)
    self.assertNotIn('--spot', made)

  def test_setup(self):
    packed, copied, installed = commands('tpu_vm.sh', 'setup', *SLICE[:2])
    self.assertEqual(packed[:2], ['tar', '-czf'])
    archive = packed[2]
    self.assertEqual(
        copied, ['gcloud', 'compute', 'tpus', 'tpu-vm', 'scp', archive,
                 'mine:gradlens.tar.gz', '--worker=all', '--zone=us-west4-a'],
    )
    self.assertIn('--worker=all', installed)
    self.assertIn('gradlens/experiments/launch/install.sh', remote(installed))

  def test_run(self):
    started, = commands(
        'tpu_vm.sh', 'run', *SLICE[:2], *RUN, '--project=p', '--',
        "--config.tasks.x.pattern=it's (a|b)",
    )
    self.assertEqual(
        started[:6], ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'mine']
    )
    self.assertContainsSubset(
        ['--worker=all', '--zone=us-west4-a', '--project=p'], started
    )
    words = remote(started)
    self.assertEqual(words[:2], ['cd', 'gradlens'])
    self.assertIn(f'until_done.sh .venv/bin/{MAIN} ', ' '.join(words))
    # As it was given, through two shells.
    self.assertIn("--config.tasks.x.pattern=it's (a|b)", words)

  def test_watch_begins_anew_where_the_slice_was_taken_away(self):
    found = commands('tpu_vm.sh', 'watch', *SLICE, *RUN)
    verbs = [words[4] if words[0] == 'gcloud' else words[0] for words in found]
    self.assertEqual(verbs, [
        'describe', 'ssh', 'ssh', 'delete', 'create', 'describe', 'tar', 'scp',
        'ssh', 'ssh',
    ])
    started, = commands('tpu_vm.sh', 'run', *SLICE, *RUN)
    self.assertEqual(found[-1], started)

  def test_what_is_asked_of_hosts(self):
    state, line = commands('tpu_vm.sh', 'status', *SLICE[:2])
    self.assertIn('describe', state)
    self.assertIn('--worker=all', line)
    log, = commands('tpu_vm.sh', 'logs', *SLICE[:2], '--worker=3')
    self.assertIn('--worker=3', log)
    self.assertEqual(remote(log)[-1], 'gradlens/run.log')
    stop, = commands('tpu_vm.sh', 'stop', *SLICE[:2])
    self.assertIn('--worker=all', stop)
    self.assertEqual(remote(stop)[:2], ['kill', '-TERM'])
    delete, = commands('tpu_vm.sh', 'delete', *SLICE[:2])
    self.assertEqual(
        ' '.join(delete), 'gcloud compute tpus queued-resources delete mine'
        ' --force --quiet --zone=us-west4-a',
    )

  def test_variables_stand_in_for_flags(self):
    by_flags = commands('tpu_vm.sh', 'run', *SLICE[:2], *RUN)
    by_environment = commands(
        'tpu_vm.sh', 'run', NAME='mine', ZONE='us-west4-a',
        CONFIG=RUN[0].partition('=')[2], WORKDIR='gs://b/run',
    )
    self.assertEqual(by_flags, by_environment)

  def fake(self, states, status=''):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'states').write_text('\n'.join(states) + '\n')
    (folder / 'status').write_text(status)
    (folder / 'gcloud').write_text(_GCLOUD)
    (folder / 'sleep').write_text('#!/bin/bash\nexec /bin/sleep 0.05\n')
    for name in ('gcloud', 'sleep'):
      (folder / name).chmod(0o755)
    environ = dict(FAKE=str(folder), TMPDIR=str(folder),
                   UNTIL_DONE=f'{folder}/until_done',
                   PATH=f'{folder}:{os.environ["PATH"]}')
    return folder, environ

  def test_create_waits(self):
    folder, environ = self.fake(['WAITING_FOR_RESOURCES', 'ACTIVE', 'never'])
    program = script('tpu_vm.sh', 'create', *SLICE, **environ)
    self.assertEqual(program.returncode, 0, program.stderr)
    self.assertEqual((folder / 'states').read_text(), 'never\n')
    _, environ = self.fake(['PROVISIONING', 'FAILED'])
    program = script('tpu_vm.sh', 'create', *SLICE, **environ)
    self.assertEqual(program.returncode, 2)
    self.assertIn('the request for mine is FAILED', program.stderr)

  @parameterized.parameters(('0', 0), ('1', 2))
  def test_watch_ends_with_the_run(self, status, code):
    folder, environ = self.fake(['ACTIVE'], status)
    program = script('tpu_vm.sh', 'watch', *SLICE, *RUN, **environ)
    self.assertEqual(program.returncode, code, program.stderr)
    self.assertNotIn('delete', (folder / 'calls').read_text())

  def test_run_and_watch_on_a_host(self):
    folder, environ = self.fake(['ACTIVE'])
    launch = folder / 'gradlens' / 'experiments' / 'launch'
    launch.mkdir(parents=True)
    shutil.copy(LAUNCH / 'until_done.sh', launch)
    python = folder / 'gradlens' / '.venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    # Asked to end at first, as by a preemption.
    python.write_text(
        '#!/bin/bash\necho "$*"; echo >> runs; (($(wc -l < runs) != 1)) ||'
        ' exit 143\n'
    )
    python.chmod(0o755)
    log = folder / 'gradlens' / 'run.log'
    for _ in range(2):
      for command in ('run', 'watch'):
        program = script('tpu_vm.sh', command, *SLICE, *RUN, **environ)
        self.assertEqual(program.returncode, 0, program.stderr)
    said = MAIN.removeprefix('python ')
    self.assertEqual(log.read_text().count(said), 3)
    self.assertIn('exit status 143; again', log.read_text())
    # A reboot: files in memory are gone.
    for path in folder.glob('until_done.*'):
      path.unlink()
    program = script('tpu_vm.sh', 'watch', *SLICE, *RUN, **environ)
    self.assertEqual(program.returncode, 0, program.stderr)
    self.assertEqual(log.read_text().count(said), 4)
    self.assertNotIn('delete', (folder / 'calls').read_text())

  def test_watch_gets_another_slice(self):
    folder, environ = self.fake(['SUSPENDED', 'ACTIVE', 'ACTIVE'], '0')
    program = script('tpu_vm.sh', 'watch', *SLICE, *RUN, **environ)
    self.assertEqual(program.returncode, 0, program.stderr)
    calls = (folder / 'calls').read_text()
    for part in ('delete mine', 'create mine', 'tpu-vm scp', MAIN):
      self.assertEqual(calls.count(part), 1, part)
    with tarfile.open(folder / 'gradlens-mine.tar.gz') as archive:
      names = archive.getnames()
    for name in ('setup.py', 'configs/toy.py', 'constraints.txt',
                 'experiments/launch/until_done.sh'):
      self.assertIn(f'./{name}', names)
    tops = {name.split('/')[1] for name in names if '/' in name}
    self.assertNoCommonElements(tops, ['.git', '.venv', 'runs', 'build'])


class UntilDoneTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def start(self, command, **environ):
    return subprocess.Popen(
        ['bash', str(LAUNCH / 'until_done.sh'), 'bash', '-c', command],
        cwd=self.folder, text=True, stderr=subprocess.PIPE,
        env=os.environ | dict(PAUSE='0', UNTIL_DONE=f'{self.folder}/until_done')
        | environ,
    )

  def wait_for(self, name):
    deadline = time.monotonic() + 30
    while not (self.folder / name).exists():
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.01)

  def assert_ends(self, process, code):
    _, err = process.communicate(timeout=30)
    self.assertEqual(process.returncode, code, err)
    return err

  def test_starts_again_until_done(self):
    # Asked to end, then a crash, then done.
    process = self.start(
        'echo . >> runs; case $(wc -l < runs) in 1) exit 143 ;; 2) exit 1 ;;'
        ' esac'
    )
    self.assert_ends(process, 0)
    self.assertEqual((self.folder / 'runs').read_text().count('.'), 3)
    self.assertEqual((self.folder / 'until_done.status').read_text(), '0\n')

  def test_gives_up(self):
    process = self.start('echo . >> runs; exit 1', MAX_FAILURES='2')
    self.assertIn('failed 3 times in a row', self.assert_ends(process, 1))
    self.assertEqual((self.folder / 'runs').read_text().count('.'), 3)
    self.assertEqual((self.folder / 'until_done.status').read_text(), '1\n')

  def test_hands_sigterm_on_and_waits(self):
    process = self.start(
        "trap 'sleep 0.5; echo saved > saved; exit 143' TERM; touch started;"
        ' while true; do sleep 0.05; done'
    )
    self.wait_for('started')
    pid = int((self.folder / 'until_done.pid').read_text())
    self.assertEqual(pid, process.pid)
    os.kill(pid, signal.SIGTERM)
    self.assert_ends(process, 143)
    self.assertTrue((self.folder / 'saved').exists())
    self.assertEqual((self.folder / 'until_done.status').read_text(), '143\n')

  def test_one_at_a_time(self):
    first = self.start(
        'touch started; while [[ ! -e end ]]; do sleep 0.05; done'
    )
    self.wait_for('started')
    second = self.start('touch second')
    self.assertIn('goes on here already', self.assert_ends(second, 2))
    (self.folder / 'end').touch()
    self.assert_ends(first, 0)
    # Nor does a late one begin what has ended.
    second = self.start('touch second')
    self.assertIn('ended already', self.assert_ends(second, 2))
    self.assertFalse((self.folder / 'second').exists())


class JobSetTest(parameterized.TestCase):

  def manifest(self, *args):
    program = script('jobset.sh', *JOB, *args)
    assert program.returncode == 0, program.stderr
    self.assertNotIn('${', program.stdout)
    return yaml.safe_load(program.stdout)

  def test_fields(self):
    jobset = self.manifest('--', '--config.seed=1')
    self.assertEqual(jobset['apiVersion'], 'jobset.x-k8s.io/v1alpha2')
    self.assertEqual(jobset['kind'], 'JobSet')
    self.assertEqual(jobset['metadata']['name'], 'mine')
    spec = jobset['spec']
    self.assertEqual(
        spec['network'], dict(enableDNSHostnames=True, subdomain='mine')
    )
    self.assertEqual(spec['failurePolicy']['maxRestarts'], 10)
    rule, = spec['failurePolicy']['rules']
    self.assertEqual(rule, dict(
        name='preempted', action='RestartJobSetAndIgnoreMaxRestarts',
        onJobFailureReasons=['PodFailurePolicy'],
    ))
    hosts, = spec['replicatedJobs']
    self.assertEqual(hosts['replicas'], 1)
    job = hosts['template']['spec']
    # 64 chips, four to a host.
    self.assertEqual((job['parallelism'], job['completions']), (16, 16))
    self.assertEqual(job['backoffLimit'], 0)
    preempted, ended = job['podFailurePolicy']['rules']
    self.assertEqual(
        preempted['onPodConditions'], [dict(type='DisruptionTarget')]
    )
    pod = job['template']['spec']
    container, = pod['containers']
    self.assertEqual(ended['onExitCodes'], dict(
        containerName=container['name'], operator='In', values=[143]
    ))
    # A Job refuses a podFailurePolicy with any other.
    self.assertEqual(pod['restartPolicy'], 'Never')
    self.assertEqual(pod['terminationGracePeriodSeconds'], 600)
    self.assertEqual(pod['nodeSelector'], {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
        'cloud.google.com/gke-tpu-topology': '8x8',
    })
    self.assertEqual(container['image'], 'registry/mine:1')
    self.assertEqual(container['args'], [*RUN, '--config.seed=1'])
    self.assertEqual(container['resources'], dict(limits={'google.com/tpu': 4}))

  @parameterized.parameters(
      ('2x2', 4, 1), ('4x4x4', 4, 16), ('2x4', 8, 1), ('16x16', 4, 64),
  )
  def test_hosts(self, topology, chips, hosts):
    jobset = self.manifest(
        f'--topology={topology}', f'--chips_per_host={chips}'
    )
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    self.assertEqual((job['parallelism'], job['completions']), (hosts, hosts))


class XpkTest(absltest.TestCase):

  def test_cluster(self):
    made, = commands('xpk.sh', 'cluster', *XPK[:3])
    self.assertEqual(
        ' '.join(made), 'xpk cluster create --tpu-type=v5litepod-64'
        ' --num-slices=1 --on-demand --cluster=ours --zone=us-west4-a',
    )
    spot, = commands('xpk.sh', 'cluster', *XPK[:3], '--spot', '--project=p')
    self.assertContainsSubset(['--spot', '--project=p'], spot)
    self.assertNotIn('--on-demand', spot)

  def test_run(self):
    words, = commands('xpk.sh', 'run', *XPK, '--', '--config.seed=1')
    self.assertEqual(words[:3], ['xpk', 'workload', 'create'])
    self.assertContainsSubset([
        '--workload=mine', '--cluster=ours', '--zone=us-west4-a',
        '--tpu-type=v5litepod-64', '--docker-image=registry/mine:1',
        '--max-restarts=10', '--restart-on-exit-codes=1',
        f'--command=exec {MAIN} --config.seed=1',
    ], words)

  def test_others(self):
    stop, = commands('xpk.sh', 'stop', *XPK)
    self.assertEqual(stop[:4], ['xpk', 'workload', 'delete', '--workload=mine'])
    status, = commands('xpk.sh', 'status', *XPK[:2])
    self.assertEqual(status[:3], ['xpk', 'workload', 'list'])
    delete, = commands('xpk.sh', 'delete', *XPK[:2])
    self.assertEqual(delete[:3], ['xpk', 'cluster', 'delete'])


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters(
      ('tpu_vm.sh', 'create', SLICE, ('name', 'zone', 'accelerator_type',
                                      'version')),
      ('tpu_vm.sh', 'setup', SLICE[:2], ('name', 'zone')),
      ('tpu_vm.sh', 'run', SLICE[:2] + RUN, ('name', 'config', 'workdir')),
      ('tpu_vm.sh', 'watch', SLICE + RUN, ('version', 'config', 'workdir')),
      ('tpu_vm.sh', 'delete', SLICE[:2], ('name', 'zone')),
      ('xpk.sh', 'cluster', XPK[:3], ('cluster', 'zone', 'tpu_type')),
      ('xpk.sh', 'run', XPK, ('name', 'image', 'config', 'workdir')),
      ('jobset.sh', None, JOB, ('name', 'image', 'accelerator', 'topology',
                                'config', 'workdir')),
  )
  def test_what_is_missing(self, name, command, args, needed):
    args = [command, *args] if command else list(args)
    for missing in needed:
      with self.subTest(missing):
        left = [arg for arg in args if not arg.startswith(f'--{missing}=')]
        self.assertLess(len(left), len(args))
        self.assert_refused(name, left, f'give --{missing}=')

  @parameterized.parameters(
      ('tpu_vm.sh', ['launch', *SLICE], 'no such command: launch'),
      ('tpu_vm.sh', ['run', *SLICE, '--confg=x'], 'no such flag: --confg=x'),
      ('tpu_vm.sh', ['run', 'mine'], 'no such flag: mine'),
      ('tpu_vm.sh', ['run', *SLICE, RUN[0], '--workdir=runs/a'],
       '--workdir=runs/a is on one host only'),
      ('jobset.sh', [*JOB, '--topology=8by8'], '--topology=8by8 is not of'),
      ('jobset.sh', [*JOB, '--topology=3x3'], '3x3 has 9 chips, no multiple'),
      ('jobset.sh', [*JOB, '--', '--config.x="'], '--config.x=" has a quote'),
  )
  def test_what_is_wrong(self, name, args, sentence):
    self.assert_refused(name, args, sentence)

  def assert_refused(self, name, args, sentence):
    program = script(name, *args, DRY_RUN='1')
    self.assertEqual((program.returncode, program.stdout), (2, ''))
    line, = program.stderr.splitlines()
    self.assertStartsWith(line, f'{name}: ')
    self.assertIn(sentence, line)
    self.assertEndsWith(line, '.')

  def test_dry_run_is_a_flag_too(self):
    program = script('tpu_vm.sh', 'delete', *SLICE[:2], '--dry_run')
    self.assertStartsWith(program.stdout, 'gcloud compute tpus')

  @parameterized.parameters('tpu_vm.sh', 'xpk.sh', 'jobset.sh')
  def test_usage(self, name):
    for args, code in (([], 2), (['--help'], 0), (['run', '--help'], 0)):
      program = script(name, *args)
      self.assertEqual((program.returncode, program.stderr), (code, ''))
      self.assertStartsWith(program.stdout, f'Usage: {name} ')


if __name__ == '__main__':
  absltest.main()
