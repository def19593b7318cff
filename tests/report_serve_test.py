"""The live view shows this machine what runs have written, and nothing else."""

import http.client
import threading

from absl.testing import absltest, parameterized
from known_run import Page, ReportCase, write_run

from gradlens.report import serve
from gradlens.workdir import journal


class ServeTest(ReportCase):

  def setUp(self):
    super().setUp()
    write_run(self.workdir)
    (self.workdir / 'secret.txt').write_text('a secret')
    self.start(self.workdir)

  def start(self, *workdirs):
    server = serve.make_server(workdirs, 0)
    self.address, self.port = server.server_address
    # Looked at more often than twice a second, it ends at once.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    self.addCleanup(thread.join)
    self.addCleanup(server.server_close)
    self.addCleanup(server.shutdown)

  def ask(self, path, method='GET', host=None, hosts=()):
    connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
    self.addCleanup(connection.close)
    connection.putrequest(method, path, skip_host=True)
    for name in hosts or [host or f'127.0.0.1:{self.port}']:
      connection.putheader('Host', name)
    connection.endheaders()
    answer = connection.getresponse()
    return answer, answer.read()

  def test_is_on_the_loopback_address_only(self):
    self.assertEqual(self.address, '127.0.0.1')

  @parameterized.parameters('/', '/report.csv', '/report_steps.csv', '/version')
  def test_has_the_page_and_its_tables(self, path):
    answer, content = self.ask(path)
    self.assertEqual(answer.status, 200)
    self.assertNotEmpty(content)
    self.assertEqual(int(answer.headers['Content-Length']), len(content))
    self.assertEqual(answer.headers['Cache-Control'], 'no-store')
    self.assertEqual(answer.headers['X-Content-Type-Options'], 'nosniff')
    head, nothing = self.ask(path, 'HEAD')
    self.assertEqual((head.status, nothing), (200, b''))

  def test_page_is_that_of_the_run(self):
    page = Page(self.ask('/')[1].decode())
    self.assertEqual(page.data['tasks'], ['a', 'b', 'c'])
    self.assertEqual(self.ask('/?x=1')[0].status, 200)

  @parameterized.parameters(
      'evil.example', 'evil.example:{port}', '127.0.0.1', '127.0.0.1:1',
      'localhost.evil.example:{port}', '127.0.0.1:{port}@evil.example')
  def test_refuses_other_names_of_this_machine(self, host):
    answer, content = self.ask('/', host=host.format(port=self.port))
    self.assertEqual(answer.status, 403)
    self.assertNotIn(b'gradlens report', content)

  def test_refuses_no_name_and_two_names(self):
    own = f'localhost:{self.port}'
    self.assertEqual(self.ask('/', hosts=[own])[0].status, 200)
    self.assertEqual(self.ask('/', hosts=[own, 'evil.example'])[0].status, 403)
    self.assertEqual(self.ask('/', hosts=[own, own])[0].status, 403)

  @parameterized.parameters(
      '/secret.txt', '/../secret.txt', '/%2e%2e/secret.txt', '/config.json',
      '//etc/passwd', '/evals/00000040.npz', '/report.csv/../secret.txt',
      '/report.html%00', 'file:///etc/passwd')
  def test_no_address_leads_to_a_file(self, path):
    answer, content = self.ask(path)
    self.assertEqual(answer.status, 404)
    self.assertNotIn(b'secret', content)
    self.assertNotIn(b'root:', content)

  @parameterized.parameters('POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS')
  def test_is_read_only(self, method):
    before = sorted(self.workdir.rglob('*'))
    self.assertEqual(self.ask('/', method)[0].status, 501)
    self.assertEqual(sorted(self.workdir.rglob('*')), before)

  def test_follows_a_run_that_goes_on(self):
    known, page = self.ask('/version')[1], self.ask('/')[1]
    self.assertEqual(self.ask('/version')[1], known)
    self.assertIn(f'data-live="{known.decode()}"'.encode(), page)
    self.assertNotIn(b'\nrun,41,', self.ask('/report_steps.csv')[1])
    writer = journal.HistoryWriter(self.workdir)
    writer.write_scalars(41, {'reward/a': 0.25})
    writer.close()
    self.assertNotEqual(self.ask('/version')[1], known)
    self.assertIn(b'\nrun,41,', self.ask('/report_steps.csv')[1])
    self.assertIn('41 of 40', self.ask('/')[1].decode())

  def test_a_broken_file_is_named_and_the_server_goes_on(self):
    path = self.workdir / 'metrics.jsonl'
    whole = path.read_text()
    path.write_text('broken\n' + whole)
    answer, content = self.ask('/')
    self.assertEqual(answer.status, 503)
    self.assertIn(b'metrics.jsonl, line 1', content)
    path.write_text(whole)
    self.assertEqual(self.ask('/')[0].status, 200)

  def test_a_port_that_is_taken_is_named(self):
    with self.assertRaisesRegex(ValueError, f'port {self.port} cannot'):
      serve.make_server([self.workdir], self.port)

  def test_a_folder_without_a_run_is_refused_at_once(self):
    with self.assertRaisesRegex(ValueError, 'holds no run'):
      serve.serve([self.workdir / 'evals'], 0)


if __name__ == '__main__':
  absltest.main()
