"""Does the coordinator talk only to those with a certificate?"""

import inspect
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time

import jax
import pytest

import joining
import together
from train.config.schema import Distributed
from train.distributed import processes

is_new = (
  'mtls_ca_file' in inspect.signature(jax.distributed.initialize).parameters
)
needs_mtls = [
  pytest.mark.skipif(not is_new, reason='this JAX has no mutual TLS'),
  pytest.mark.skipif(not shutil.which('openssl'), reason='needs openssl'),
]


def signed(folder, name, authority, text):
  """A key and a certificate of an authority, or of itself."""
  key, request = folder / f'{name}.key', folder / f'{name}.csr'
  new = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  subject = ['-subj', f'/CN={name}', '-keyout', key]
  own = [] if authority else ['-x509', '-days', '2']
  out = request if authority else folder / f'{name}.pem'
  openssl('req', *own, *new, *subject, '-out', out)
  if authority:
    (folder / f'{name}.ext').write_text(f'subjectAltName={text}')
    by = ['-CA', folder / f'{authority}.pem', '-CAkey']
    by += [folder / f'{authority}.key', '-CAcreateserial', '-days', '2']
    by += ['-extfile', folder / f'{name}.ext', '-out', folder / f'{name}.pem']
    openssl('x509', '-req', '-in', request, *by)


def openssl(*words):
  subprocess.run(['openssl', *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope='module')
def certificates(tmp_path_factory):
  folder = tmp_path_factory.mktemp('certificates')
  for authority in ('ours', 'theirs'):
    signed(folder, authority, None, '')
  for name, authority in (('0', 'ours'), ('1', 'ours'), ('2', 'theirs')):
    text = f'IP:127.0.0.1,URI:spiffe://example.org/{name}'
    signed(folder, name, authority, text)
  return folder


def files(folder, name, **more):
  return {
    'mtls_cert_file': str(folder / f'{name}.pem'),
    'mtls_key_file': str(folder / f'{name}.key'),
    'mtls_ca_file': str(folder / 'ours.pem'),
    **more,
  }


class Joining:
  """Two processes, or some of them, that join with these files."""

  def __init__(self, *each, timeout=120):
    self.port = together.free_port()
    self.all = []
    for i, more in enumerate(each):
      keys = {
        'coordinator': f'127.0.0.1:{self.port}',
        'num_processes': 2,
        'process_id': i,
        'start_timeout': timeout,
        **more,
      }
      self.all.append(
        subprocess.Popen(
          [sys.executable, joining.__file__, json.dumps(keys)],
          env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
        )
      )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.all:
      with process:
        process.kill()


SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # A frame of HTTP/2.
PREFIX = {'mtls_peer_uri_prefix': 'spiffe://example.org/'}


class TestService:
  """With openssl and a JAX that can."""

  pytestmark = needs_mtls

  @pytest.mark.parametrize('more', [{}, PREFIX])
  def test_processes_with_certificates_join(self, certificates, more):
    each = [files(certificates, i, **more) for i in '01']
    with Joining(*each) as run:
      said = [process.communicate(timeout=150) for process in run.all]
      assert said == [('joined 2\n', '')] * 2

  def test_a_client_without_certificate_gets_no_answer(self, certificates):
    """Nor does one whose certificate another authority has signed."""
    with Joining(files(certificates, '0')) as run:
      assert answer(run.port, certificates, '1')
      assert not answer(run.port, certificates, None)
      assert not answer(run.port, certificates, '2')

  @pytest.mark.slow
  @pytest.mark.parametrize('one', [{}, {'files': '2'}])
  def test_a_process_without_certificate_does_not_join(self, certificates, one):
    other = files(certificates, one['files']) if one else {}
    with Joining(files(certificates, '0'), other, timeout=10) as run:
      for process in run.all:
        out, error = process.communicate(timeout=100)
        assert process.returncode
        assert not out
        assert error.startswith('error: not all processes came to 127.0.0.1:')
        assert 'certificates of one authority' in error


def answer(port, folder, name):
  """The first bytes that the coordinator sends, as HTTP/2 begins."""
  context = ssl.create_default_context(cafile=folder / 'ours.pem')
  context.check_hostname = False
  context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Of our simple authority.
  context.set_alpn_protocols(['h2'])
  if name:
    context.load_cert_chain(folder / f'{name}.pem', folder / f'{name}.key')
  for _ in range(600):
    try:
      plain = socket.create_connection(('127.0.0.1', port), timeout=10)
      break
    except ConnectionRefusedError:
      time.sleep(0.1)
  with plain:
    try:
      with context.wrap_socket(plain) as connection:
        connection.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + SETTINGS)
        return connection.recv(100)
    except (ssl.SSLError, ConnectionError):
      return b''


def test_the_files_go_together():
  with pytest.raises(ValueError, match='go together, got no mtls_key_file, mt'):
    Distributed(mtls_cert_file='a.pem')
  with pytest.raises(ValueError, match="must be a prefix that ends with '/'"):
    Distributed(
      mtls_cert_file='a',
      mtls_key_file='b',
      mtls_ca_file='c',
      mtls_peer_uri_prefix='spiffe://example.org',
    )


CREDENTIALS = Distributed(
  mtls_cert_file='a', mtls_key_file='b', mtls_ca_file='c'
)


def test_an_older_jax_is_refused(monkeypatch):
  monkeypatch.setattr(jax.distributed, 'initialize', lambda address=None: None)
  expected = (
    f'distributed.mtls_cert_file needs jax 0.11 or newer, got {jax.__version__}'
  )
  with pytest.raises(ValueError, match=expected):
    processes.join(CREDENTIALS)


@pytest.mark.skipif(not is_new, reason='this JAX has no mutual TLS')
def test_a_missing_file_is_named():
  expected = "distributed.mtls_cert_file must name a PEM file, .* no 'a'"
  with pytest.raises(ValueError, match=expected):
    processes.join(CREDENTIALS)
