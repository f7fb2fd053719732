"""The work folder: one run at a time, and one folder for all its processes."""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import fcntl
import os
import pathlib
import socket
import sys
import tempfile
import time

from train.config import regular_files
from train.distributed import agreement, processes
from train.run import json_files, paths

# File systems that cannot lock say one of these.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# For network file systems that show a new file with a delay.
_PATIENCE_SECONDS = 10


@contextlib.contextmanager
def claimed(folder: pathlib.Path, local: str | None = None) -> Iterator[None]:
  """Locks the folder of a run; on process 0 for all its processes.

  With a `local` folder of each process, that one is locked, too, and only
  process 0 needs `folder`.

  Raises:
    ValueError: on every process, if another process uses the folder, if it
      cannot be written to, or if not all processes see the same folder.
  """
  with contextlib.ExitStack() as stack:
    mark = ''
    with agreement.together():
      if processes.is_main():
        mark = stack.enter_context(held(folder))
        refuse(folder, paths.RESULTS, 'a study')
        if (checkpoints := folder / paths.CHECKPOINTS).exists():
          _check_writable(checkpoints)
        for below in (paths.CHECKPOINTS, paths.TENSORBOARD):
          regular_files.check_below(folder / below, links=False)
      if local:
        stack.enter_context(held(pathlib.Path(local)))
        regular_files.check_below(pathlib.Path(local), links=False)
    if not local:
      mark = agreement.gather(mark)[0]
      with agreement.together():
        _check_sees(folder, mark)
    yield


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[str]:
  """Makes the folder and locks it, until the end of the block or the process.

  The operating system drops the lock when the process ends, however it ends.
  Yields what the file `lock` in the folder says: which process holds it. At the
  end of the block that file is deleted, and so is the folder, if it is empty.

  Raises:
    ValueError: if another process holds the lock, or the folder cannot be
      written to, or has links in it through which a run would write elsewhere.
  """
  path = folder / paths.LOCK
  regular_files.check_in(folder)
  file = _open_locked(path)
  try:
    now = datetime.datetime.now().isoformat(' ')
    mark = f'process {os.getpid()} on {socket.gethostname()} since {now}'
    with json_files.writing(path):
      os.ftruncate(file, 0)
      os.write(file, mark.encode())
      os.fsync(file)
    yield mark
  finally:
    with contextlib.suppress(OSError):
      path.unlink()
      folder.rmdir()
    os.close(file)


def refuse(folder: pathlib.Path, name: str, owner: str) -> None:
  """Raises a ValueError if a file shows that the folder belongs to another."""
  if (folder / name).exists():
    raise ValueError(
      f'{folder} belongs to {owner} ({name} is there), whose files would be'
      ' overwritten: use another --workdir.'
    )


def _check_writable(folder: pathlib.Path) -> None:
  """Makes a folder, if it is missing, and raises if that cannot be used."""
  try:
    if folder.exists() and not folder.is_dir():
      raise NotADirectoryError(errno.ENOTDIR, 'It is a file')
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise ValueError(
      f'{folder} must be a folder that this process can write to, but writing'
      f' failed ({error.strerror}): correct that, or use another --workdir.'
    ) from None


def _open_locked(path: pathlib.Path) -> int:
  """A file descriptor of the lock file, locked."""
  while True:
    _check_writable(path.parent)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      holder = os.read(file, 1000).decode(errors='replace')
      os.close(file)
      raise ValueError(
        f'{path.parent} must be used by one run or study at a time, but'
        f' {holder or "another process"} uses it: wait until it ends, stop'
        ' it, or use another --workdir.'
      ) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      print(
        f'{path.parent} cannot be locked on this file system'
        f' ({error.strerror}): start nothing else in it.',
        file=sys.stderr,
      )
      return file
    # The one that held it may have deleted the file since it was opened.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.stat(path), os.fstat(file)):
        return file
    os.close(file)


def _check_sees(folder: pathlib.Path, mark: str) -> None:
  """Raises unless the lock file of process 0 is in the folder here, too."""
  deadline = time.monotonic() + _PATIENCE_SECONDS
  while True:
    with contextlib.suppress(OSError):
      if (folder / paths.LOCK).read_text(encoding='utf-8') == mark:
        return
    if time.monotonic() > deadline:
      break
    time.sleep(0.2)
  raise ValueError(
    f'--workdir must be one folder that all processes share, but {folder} on'
    f' {socket.gethostname()} is not the folder of process 0 ({mark}): use a'
    ' folder on a shared file system.'
  )
