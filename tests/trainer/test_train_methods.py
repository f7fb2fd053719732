"""Do runs of methods with a state of their own kind resume correctly?"""

import dataclasses

import pytest

import runs
from train.config.schema import Compression, Local, Mesh, Optimizer
from train.run import loop


@pytest.mark.slow
def test_a_method_that_needs_every_error_resumes_with_as_many_workers(tmp_path):
  """Bit by bit with 4, not at all with 2."""
  compression = Compression('sign', start_step=1)
  whole = runs.settings(tmp_path, compression=compression)
  summary, _ = runs.run(whole, tmp_path / 'whole')
  runs.check_bytes(whole, tmp_path / 'whole', summary)
  assert summary['checkpoint_bytes'] == 0
  runs.interrupt(whole, tmp_path / 'parts', 6)
  fewer = dataclasses.replace(whole, mesh=Mesh(replica=2))
  with pytest.raises(ValueError, match='the state of 4 workers, got 2'):
    loop.run(fewer, tmp_path / 'parts')
  resumed, _ = runs.run(whole, tmp_path / 'parts')
  for key in ('final_loss', 'final_eval_loss', 'bytes_sent'):
    assert resumed[key] == summary[key], key


@pytest.mark.slow
@pytest.mark.parametrize(
  ('compression', 'local'),
  [
    (
      Compression('chunk_top_k', chunk=8, keep=8, bits=2, error_decay=0.95),
      Local(every=2),
    ),
    (
      Compression(
        'threshold_top_k', density=0.1, update_interval=3, embeddings=True
      ),
      Local(),
    ),
  ],
  ids=['chunks in rounds', 'threshold'],
)
def test_sparse_methods_train_and_resume(tmp_path, compression, local):
  run = runs.settings(tmp_path, compression=compression, local=local)
  summary, _ = runs.run(run, tmp_path / 'whole')
  assert summary['compression'] > 1.2
  runs.check_bytes(run, tmp_path / 'whole', summary)
  runs.interrupt(run, tmp_path / 'parts', 6)
  resumed, _ = runs.run(run, tmp_path / 'parts')
  for key in ('final_loss', 'final_eval_loss', 'bytes_sent'):
    assert resumed[key] == summary[key], key


@pytest.mark.slow
def test_tsr_adam_trains_and_resumes(tmp_path):
  compression = Compression(
    'tsr_adam',
    rank=4,
    update_interval=4,
    embeddings=True,
    embedding_rank=3,
    embedding_update_interval=2,
  )
  run = runs.settings(tmp_path, compression=compression)
  summary, _ = runs.run(run, tmp_path / 'whole')
  assert summary['compression'] > 1.5
  runs.check_bytes(run, tmp_path / 'whole', summary)
  runs.interrupt(run, tmp_path / 'parts', 6)
  resumed, _ = runs.run(run, tmp_path / 'parts')
  assert resumed['final_loss'] == summary['final_loss']
  wrong = dataclasses.replace(run, optimizer=Optimizer('sgd'))
  with pytest.raises(ValueError, match=r'takes optimizer\.name adamw'):
    loop.run(wrong, tmp_path / 'wrong')


@pytest.mark.parametrize(
  ('compression', 'changes', 'least'),
  [
    (Compression('count_sketch', density=0.05, embeddings=True), {}, 2),
    pytest.param(
      Compression('sketched_amsgrad', density=0.05, embeddings=True),
      {},
      2,
      marks=pytest.mark.slow,
    ),
    pytest.param(
      Compression(
        'frugal',
        density=0.25,
        update_interval=3,
        payload_method='quantize',
        embeddings=True,
      ),
      {},
      2,
      marks=pytest.mark.slow,
    ),
    pytest.param(
      Compression('lordo', rank=2, payload_method='powersgd', embeddings=True),
      {'local': Local(every=2)},
      2,
      marks=pytest.mark.slow,
    ),
  ],
  ids=lambda x: getattr(x, 'method', ''),
)
def test_a_method_trains_by_configuration_and_resumes(
  compression, changes, least, tmp_path
):
  run = runs.settings(tmp_path, compression=compression, **changes)
  summary, _ = runs.run(run, tmp_path / 'whole')
  assert summary['compression'] > least
  runs.check_bytes(run, tmp_path / 'whole', summary)
  runs.interrupt(run, tmp_path / 'parts', 6)
  resumed, _ = runs.run(run, tmp_path / 'parts')
  assert resumed['final_loss'] == summary['final_loss']


@pytest.mark.parametrize('method', ['sketched_amsgrad', 'frugal', 'lordo'])
def test_a_method_that_is_an_optimizer_refuses_another_one(method, tmp_path):
  local = Local(every=2 if method == 'lordo' else 1)
  wrong = runs.settings(
    tmp_path,
    compression=Compression(method),
    optimizer=Optimizer('sgd'),
    local=local,
  )
  with pytest.raises(ValueError, match=r'takes optimizer\.name adamw'):
    loop.run(wrong, tmp_path / 'wrong')


def test_lordo_needs_rounds(tmp_path):
  with pytest.raises(ValueError, match=r'set local\.every above 1, got 1'):
    runs.settings(tmp_path, compression=Compression('lordo'))
