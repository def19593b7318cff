"""Serve: the page of runs that go on, for this machine only.

There are four addresses, all read-only, and no other leads to a file. Requests
under another host's name are refused: a site that has its own name point to
this machine cannot read what a browser here may.
"""

from collections.abc import Callable, Sequence
import functools
import hashlib
import http.server
import os

from etils import epath

from gradlens.report import files, history

_WATCHED = ('config.json', 'metrics.jsonl', 'evals')
_HTML = 'text/html; charset=utf-8'
_CSV = 'text/csv; charset=utf-8'
_TEXT = 'text/plain; charset=utf-8'


def version(workdirs: Sequence[os.PathLike]) -> str:
  """Another one whenever a run has written something."""
  states = []
  for workdir in workdirs:
    for name in _WATCHED:
      path = epath.Path(workdir) / name
      if path.exists():
        state = path.stat()
        states.append((str(path), state.length, state.mtime))
  return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


class Pages:
  """What is at every address, made anew when a run has gone on.

  Args:
    workdirs: of the runs.
    gain_window: steps on each side of a learning gain, or None.
  """

  def __init__(self, workdirs: Sequence[os.PathLike], gain_window: int | None):
    self._workdirs = workdirs
    self._make = {
        '/': (_HTML, lambda runs, of: files.html(runs, gain_window, of)),
        f'/{files.TABLE}': (_CSV, lambda runs, of: files.table_csv(runs)),
        f'/{files.STEPS}': (_CSV, lambda runs, of: files.steps_csv(runs)),
    }
    # One content for each address: an older one is never asked for again.
    self._made = functools.lru_cache(maxsize=len(self._make))(self._fresh)

  def _fresh(self, address: str, of: str) -> bytes:
    return self._make[address][1](history.load_all(self._workdirs), of)

  def get(self, address: str) -> tuple[int, str, bytes]:
    """Status, type and content."""
    if address == '/version':
      return 200, _TEXT, version(self._workdirs).encode()
    if address not in self._make:
      return 404, _TEXT, b'There is nothing here.'
    try:
      content = self._made(address, version(self._workdirs))
    except ValueError as error:
      # A run that has not begun, or that is being written to, has its reason.
      return 503, _TEXT, str(error).encode('utf-8', 'replace')
    return 200, self._make[address][0], content


def make_server(
    workdirs: Sequence[os.PathLike], port: int,
    gain_window: int | None = None,
) -> http.server.ThreadingHTTPServer:
  """A server on the loopback address, not yet serving.

  Raises:
    ValueError: the port is taken.
  """
  pages = Pages(workdirs, gain_window)
  try:
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', port), _handler(pages.get))
  except OSError as error:
    raise ValueError(f'port {port} cannot be used ({error.strerror}); choose '
                     'another, or 0 for any free one.') from error
  server.daemon_threads = True
  return server


def _handler(
    get: Callable[[str], tuple[int, str, bytes]],
) -> type[http.server.BaseHTTPRequestHandler]:

  class Handler(http.server.BaseHTTPRequestHandler):
    """GET and HEAD, under a name of this machine."""

    server_version, sys_version = 'gradlens', ''

    def do_GET(self) -> None:
      port = self.server.server_address[1]
      # A browser sends the name in its address bar, whatever it resolves to.
      if self.headers.get_all('Host') not in (
          [f'localhost:{port}'], [f'127.0.0.1:{port}']):
        self._answer(403, _TEXT, b'Ask for localhost or 127.0.0.1.')
      else:
        self._answer(*get(self.path.partition('?')[0]))

    do_HEAD = do_GET

    def _answer(self, status: int, kind: str, content: bytes) -> None:
      self.send_response(status)
      for name, value in (
          ('Content-Type', kind), ('Content-Length', str(len(content))),
          ('Cache-Control', 'no-store'), ('X-Content-Type-Options', 'nosniff'),
          ('Cross-Origin-Resource-Policy', 'same-origin'),
          ('X-Frame-Options', 'DENY')):
        self.send_header(name, value)
      self.end_headers()
      if self.command != 'HEAD':
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
      del format, args

  return Handler


def serve(
    workdirs: Sequence[os.PathLike], port: int,
    gain_window: int | None = None,
) -> None:
  """Serves until interrupted.

  Args:
    workdirs: of the runs.
    port: of this machine; 0 takes a free one.
    gain_window: steps on each side of a learning gain, or None.

  Raises:
    ValueError: there is no run, or the port is taken.
  """
  history.load_all(workdirs)
  with make_server(workdirs, port, gain_window) as server:
    print(f'http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends it)',
          flush=True)
    try:
      server.serve_forever()
    except KeyboardInterrupt:
      print()
