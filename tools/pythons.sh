#!/bin/sh
# Prints a Python of each version from 3.14 down to 3.11 that this machine has.
# One counts only if it starts and can make a virtual environment: pyenv's shims
# do not always start, and Debian has Pythons without venv. pyenv's own versions
# are found even if none of them is activated.
for minor in 14 13 12 11; do
  for python in "python3.$minor" python3 \
      "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python; do
    "$python" -c "import ensurepip, sys, venv
if sys.version_info[:2] == (3, $minor):
  print(sys.executable)
else:
  sys.exit(1)" 2>/dev/null && break
  done
done
exit 0
