"""Pages of the trainer as a browser would read them."""

import html
import pathlib
import re
import shutil
import subprocess
from xml.etree import ElementTree

BROWSER = shutil.which('chromium') or shutil.which('google-chrome')


def parse(text):
  """The tree of a page, which is well-formed and loads nothing."""
  assert text.startswith('<!DOCTYPE html>')
  root = ElementTree.fromstring(text)
  assert '://' not in text and '@import' not in text and 'url(' not in text
  for element in root.iter():
    assert element.tag not in ('script', 'link', 'img', 'iframe', 'object')
    assert 'src' not in element.attrib
    assert not [x for x in element.attrib if x.startswith('on')]
    assert element.attrib.get('href', './').startswith('./')
  return root


def text_of(element):
  return re.sub(r'\s+', ' ', ' '.join(element.itertext()))


def sections(root):
  """Heading -> section."""
  return {x.find('h2').text: x for x in root.iter('section')}


def charts(section):
  """The names of a section's charts."""
  return [
    x.get('aria-label') for x in section.iter('svg') if x.get('aria-label')
  ]


def overflow(page, folder, width):
  """By how many pixels a page is too wide for a window, as a browser says."""
  harness = pathlib.Path(folder) / f'at-{width}.html'
  harness.write_text(
    f'<body><iframe width="{width}" height="900" srcdoc="{html.escape(page)}">'
    '</iframe><script>onload = () => { const of ='
    ' document.querySelector("iframe").contentDocument.documentElement;'
    ' document.title = `over ${of.scrollWidth - of.clientWidth}, high'
    ' ${of.scrollHeight}`; }</script>',
    encoding='utf-8',
  )
  done = subprocess.run(
    [
      *(BROWSER, '--headless=new', '--no-sandbox', '--disable-gpu'),
      *(f'--user-data-dir={folder}/profile', '--dump-dom', harness.as_uri()),
    ],
    check=True,
    capture_output=True,
    text=True,
    timeout=120,
  )
  over, high = re.search(r'over (-?\d+), high (\d+)', done.stdout).groups()
  assert int(high) > 900, 'it has shown the page'
  return int(over)
