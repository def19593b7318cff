"""A Hugging Face hub of one repository, on this machine."""

import contextlib
import functools
import hashlib
import http.server
import json
import pathlib
import threading

COMMIT = 'a' * 40


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers what `huggingface_hub.snapshot_download` asks."""

  def __init__(self, name, folder, asked, *args):
    self.name, self.folder, self.asked = name, folder, asked
    super().__init__(*args)

  def log_message(self, *unused):
    """Says nothing."""

  def _answer(self, status, body, **headers):
    self.send_response(status)
    for key, value in headers.items():
      self.send_header(key.replace('_', '-'), value)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(body)

  def _answer_json(self, value):
    body = json.dumps(value).encode()
    self._answer(200, body, Content_Type='application/json')

  def do_GET(self):
    """A list of the files, or one of them."""
    self.asked.append(self.path)
    path = self.path.split('?')[0]
    files = f'/{self.name}/resolve/{COMMIT}/'
    api = f'/api/models/{self.name}/'
    if path.startswith(api + 'tree/'):
      self._answer_json([
          dict(type='file', path=f.name, size=f.stat().st_size, oid='0' * 40)
          for f in sorted(self.folder.iterdir())
      ])
    elif path.startswith(api):
      self._answer_json(dict(id=self.name, sha=COMMIT, siblings=[
          dict(rfilename=f.name) for f in sorted(self.folder.iterdir())
      ]))
    elif path.startswith(files):
      body = (self.folder / path.removeprefix(files)).read_bytes()
      self._answer(
          200, body, X_Repo_Commit=COMMIT,
          ETag=f'"{hashlib.sha256(body).hexdigest()}"',
      )
    else:
      self._answer(404, b'', X_Error_Code='RepoNotFound')

  do_HEAD = do_GET


@contextlib.contextmanager
def serve(name: str, folder: pathlib.Path):
  """Gives the address, and the list of what was asked for."""
  asked = []
  server = http.server.ThreadingHTTPServer(
      ('127.0.0.1', 0), functools.partial(_Handler, name, folder, asked)
  )
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_port}', asked
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
