"""Refuses what is not a regular file, before it is opened.

Reading a FIFO waits forever, and /dev/zero never ends. Writing through a
symbolic link changes a file elsewhere.
"""

from collections.abc import Iterator
import os
import pathlib
import stat

_KINDS = {
  stat.S_IFDIR: 'a folder',
  stat.S_IFIFO: 'a FIFO',
  stat.S_IFSOCK: 'a socket',
  stat.S_IFCHR: 'a device',
  stat.S_IFBLK: 'a device',
  stat.S_IFLNK: 'a symbolic link',
}


def check(path: str | os.PathLike[str]) -> None:
  """Raises unless a path is a regular file, or a link to one.

  Raises:
    ValueError: if it is something else.
    OSError: if there is nothing.
  """
  _check_mode(path, os.stat(path).st_mode)


def check_below(folder: str | os.PathLike[str], *, links: bool) -> None:
  """Raises unless a folder holds regular files and folders only, at any depth.

  Args:
    folder: its own path may be a link. One that is missing holds nothing.
    links: whether links to regular files are allowed.

  Raises:
    ValueError: naming the first that is something else.
    OSError: if it cannot be read.
  """
  for entry in _entries(folder):
    if links and entry.is_symlink():
      check(entry.path)
    elif not entry.is_dir(follow_symlinks=False):
      _check_mode(entry.path, entry.stat(follow_symlinks=False).st_mode)


def check_in(folder: str | os.PathLike[str]) -> None:
  """Raises unless a folder itself holds regular files and folders only.

  Raises:
    ValueError: naming the first that is something else, such as a link.
    OSError: if it cannot be read.
  """
  if not os.path.isdir(folder):
    return
  with os.scandir(folder) as entries:
    for entry in entries:
      if not entry.is_dir(follow_symlinks=False):
        _check_mode(entry.path, entry.stat(follow_symlinks=False).st_mode)


def _entries(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
  folders = [os.fspath(folder)] if os.path.isdir(folder) else []
  while folders:
    with os.scandir(folders.pop()) as entries:
      for entry in entries:
        yield entry
        if entry.is_dir(follow_symlinks=False):
          folders.append(entry.path)


def _check_mode(path: str | os.PathLike[str], mode: int) -> None:
  if not stat.S_ISREG(mode):
    kind = _KINDS.get(stat.S_IFMT(mode), 'something else')
    do = 'put a copy of the file there, or delete it'
    if stat.S_ISDIR(mode):
      do = 'name a file in it, or move it away'
    raise ValueError(
      f'{pathlib.Path(path)} must be a regular file, got {kind}: {do}.'
    )
