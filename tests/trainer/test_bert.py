"""Is it BERT's network, and does it read the files of others?"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hugging_face import BATCH, CONFIG, arrays, assert_is, loaded, write
from train.models import bert, pretrained
import workers

numpy_files = pytest.importorskip('safetensors.numpy')
SIZES = bert.Sizes(
  vocab_size=13, width=8, layers=2, heads=2, feed_forward=12, positions=7
)


@pytest.mark.slow
@pytest.mark.parametrize('old', [False, True])
def test_a_bert_is_what_its_paper_says(tmp_path, old):
  of = arrays()
  assert_is(*loaded(write(tmp_path / 'plain')), of)
  # As the first files are: a prefix, other names, layers of pre-training.
  names = {
    'LayerNorm.weight': 'LayerNorm.gamma',
    'LayerNorm.bias': 'LayerNorm.beta',
  }
  renamed = dict(of)
  for new, was in names.items():
    renamed = {x.replace(new, was): y for x, y in renamed.items()}
  renamed['lm_head.bias'] = np.zeros(13, np.float32)
  folder = write(tmp_path / 'old', of=renamed, prefix='bert.')
  assert_is(*loaded(folder), of)


def test_a_roberta_counts_from_another_row_and_has_one_kind_of_sentence(
  tmp_path,
):
  of = arrays(positions=9, segments=1)
  del of['pooler.dense.weight'], of['pooler.dense.bias']
  config = CONFIG | {
    'model_type': 'roberta',
    'max_position_embeddings': 9,
    'type_vocab_size': 1,
    'pad_token_id': 1,
  }
  network, params = loaded(
    write(tmp_path / 'roberta', config, of, prefix='roberta.')
  )
  fresh = params['pooler']
  of['pooler.dense.weight'] = np.asarray(fresh['kernel']).T
  of['pooler.dense.bias'] = np.asarray(fresh['bias'])
  batch = BATCH | {'segments': np.zeros_like(BATCH['segments'])}
  assert_is(network, params, of, batch, first=2)


@pytest.mark.parametrize(
  ('sizes', 'count'),
  [
    ((30522, 768, 12, 12, 3072, 512), 109_482_240),  # bert-base-uncased
    ((50265, 768, 12, 12, 3072, 514, 1), 124_645_632),  # roberta-base
  ],
)
def test_it_has_as_many_parameters_as_everywhere(sizes, count):
  network = bert.Network(bert.Sizes(*sizes), outputs=2)
  shapes = jax.eval_shape(lambda: network.init(0))
  head = 2 * 768 + 2
  assert sum(x.size for x in jax.tree.leaves(shapes)) == count + head


def test_what_is_filled_up_does_not_matter():
  network = bert.Network(SIZES, outputs=3)
  params = jax.jit(network.init)(0)
  outputs = jax.jit(network.outputs)
  short = {key: x[1:, :3] if x.ndim > 1 else x[1:] for key, x in BATCH.items()}
  other = BATCH | {'tokens': np.where(BATCH['tokens'], BATCH['tokens'], 11)}
  for batch in (short, other):
    np.testing.assert_allclose(
      outputs(params, batch)[-1], outputs(params, BATCH)[-1], atol=1e-6
    )


def test_dropout_is_an_example_s_own_and_keeps_the_mean():
  keys = jax.vmap(jax.random.key)(np.arange(2, dtype=np.uint32))
  both = np.asarray(bert.Dropout(0.25, keys)(np.ones((2, 50, 80))))
  assert {*both.ravel()} == {0, np.float32(4 / 3)}
  assert both.mean() == pytest.approx(1, abs=0.03)
  assert (both[0] != both[1]).any()
  second = np.asarray(bert.Dropout(0.25, keys[1:])(np.ones((1, 50, 80))))
  np.testing.assert_array_equal(second[0], both[1])
  again = bert.Dropout(0.25, keys)
  again(np.ones((2, 3)))
  assert (again(np.ones((2, 50, 80))) != both).any(), 'in another place'


@pytest.mark.slow
def test_dropout_is_for_training_only():
  network = bert.Network(SIZES, outputs=3)
  params = network.init(0)
  # Larger than it begins, for the outputs to differ.
  params['head']['kernel'] = 50 * params['head']['kernel']
  of = lambda noise, rate: np.asarray(
    network.outputs(params, BATCH | {'noise': np.array(noise, np.uint32)}, rate)
  )
  plain, one, two = of([1, 2], 0), of([1, 2], 0.5), of([1, 3], 0.5)
  np.testing.assert_array_equal(plain, network.outputs(params, BATCH))
  assert (np.abs(one - plain).max(1) > 1e-3).all()
  np.testing.assert_allclose(one[0], two[0], atol=1e-6)
  assert np.abs(one[1] - two[1]).max() > 1e-3


def test_every_parameter_is_covered_and_ends_are_dense():
  network = bert.Network(SIZES, outputs=3)
  shapes = jax.eval_shape(lambda: network.init(0))
  numbers = network.matrices(shapes)
  layer = numbers['layers']['1']
  assert layer['attention']['output']['kernel']
  assert layer['feed_forward']['down']['kernel']
  assert layer['attention']['query']['bias'] is None
  for tree in (
    numbers['embedding']['token'],
    numbers['pooler']['kernel'],
    numbers['head']['kernel'],
  ):
    assert tree is None
  whole = network.matrices(shapes, embeddings=True)
  assert whole['embedding']['token'] and whole['head']['kernel']


def renamed(of, prefix):
  return {f'{prefix}{name}': x for name, x in of.items()}


@pytest.mark.parametrize(
  'prefix',
  [
    'module.',
    '_orig_mod.',
    'module._orig_mod.bert.',
    '0.auto_model.',
    'model.roberta.',
  ],
)
def test_names_may_have_what_wrappers_put_in_front(tmp_path, prefix):
  of = arrays()
  changes = {f'{prefix.removesuffix("bert.")}classifier.weight': np.ones(2)}
  folder = write(tmp_path / 'x', of=renamed(of, prefix) | changes)
  _, params = loaded(folder)
  np.testing.assert_array_equal(
    params['layers']['1']['feed_forward']['up']['kernel'],
    of['encoder.layer.1.intermediate.dense.weight'].T,
  )
  # Of a compiled layer, within the name.
  inner = {
    x.replace('layer.1.', 'layer.1._orig_mod.'): y for x, y in of.items()
  }
  assert_trees_equal(loaded(write(tmp_path / 'y', of=inner))[1], params)


def assert_trees_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_two_encoders_in_a_file_are_refused(tmp_path):
  of = arrays()
  two = renamed(of, 'query.') | renamed(of, 'document.')
  with pytest.raises(ValueError, match=r'one encoder, .* document\., query'):
    loaded(write(tmp_path / 'x', of=two))
  twice = of | {'module.pooler.dense.bias': of['pooler.dense.bias']}
  with pytest.raises(ValueError, match=r'must hold pooler\.dense\.bias once'):
    loaded(write(tmp_path / 'y', of=twice))


def divided(folder, of):
  """The same in several files, with their index; the index."""
  write(folder, of=of)
  (folder / 'model.safetensors').unlink()
  places = {}
  for i in range(3):
    file = f'model-{i + 1:05}-of-00003.safetensors'
    part = dict([*of.items()][i::3])
    numpy_files.save_file(part, folder / file)
    places |= dict.fromkeys(part, file)
  index = {'metadata': {}, 'weight_map': places}
  path = folder / 'model.safetensors.index.json'
  path.write_text(json.dumps(index))
  return path


def test_a_divided_model_is_that_of_one_file(tmp_path):
  of = arrays()
  index = divided(tmp_path / 'parts', of)
  expected = loaded(write(tmp_path / 'whole'))[1]
  assert_trees_equal(loaded(index.parent)[1], expected)
  name = pretrained.Pretrained(index.parent).name
  divided(tmp_path / 'parts', arrays(seed=1))
  assert pretrained.Pretrained(index.parent).name != name
  (index.parent / 'model-00002-of-00003.safetensors').unlink()
  with pytest.raises(ValueError, match=r"there is no '.*00002-of-00003\.saf"):
    loaded(index.parent)
  for text, said in (
    ('{"weight_map": {"a": "../x.safetensors"}}', 'must give weight_map'),
    ('{"weight_map": {"a": 3}}', 'must give weight_map'),
    ('{}', 'must give weight_map'),
    ('[]', r'index\.json must be a JSON object'),
    ('{', r'index\.json is not JSON'),
  ):
    index.write_text(text)
    with pytest.raises(ValueError, match=said):
      loaded(index.parent)


@pytest.mark.parametrize(
  ('dtype', 'value', 'said'),
  [
    (np.int8, 1, r'must be of type F64, F32, F16, BF16, got I8: .* quantized'),
    (np.float32, np.nan, r'must be finite, got NaN'),
    (np.float16, np.inf, r'must be finite, got NaN or infinity'),
  ],
)
def test_weights_that_are_no_weights_are_refused(tmp_path, dtype, value, said):
  name = 'encoder.layer.1.output.dense.weight'
  of = arrays() | {name: np.full((8, 12), value).astype(dtype)}
  with pytest.raises(ValueError, match=rf'{name} in .*{said}'):
    loaded(write(tmp_path / 'x', of=of))


@pytest.mark.parametrize(
  'key',
  [
    'vocab_size',
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'intermediate_size',
    'max_position_embeddings',
    'type_vocab_size',
    'layer_norm_eps',
    'model_type',
    'hidden_act',
    'is_decoder',
    'pad_token_id',
  ],
)
def test_any_value_of_any_key_gets_a_line(tmp_path, key):
  """Before anything of that size is made."""
  roberta = CONFIG | {'model_type': 'roberta', 'pad_token_id': 1}
  folder = write(tmp_path / 'x', roberta)
  pretrained.Pretrained(folder)
  for value in (
    '8',
    8.5,
    -1,
    None,
    [],
    {},
    True,
    10**9,
    2**31 - 1,
    10**30,
    1e999,
    float('nan'),
    *([0] if key not in ('pad_token_id', 'is_decoder') else []),
  ):
    config = json.dumps(roberta | {key: value})
    (tmp_path / 'x' / 'config.json').write_text(config)
    with pytest.raises(ValueError, match=f'{key}|shape|layers') as found:
      pretrained.Pretrained(folder)
    assert '\n' not in str(found.value) and len(str(found.value)) < 400


@pytest.mark.parametrize(
  'text',
  [
    '[]',
    '"bert"',
    '3',
    '[' * 100_000,
    '{"a":' * 100_000,
    '',
    '\xff',
    '{"vocab_size": 1' + '0' * 5000 + '}',
  ],
)
def test_a_configuration_that_is_none_is_reported_by_name(tmp_path, text):
  folder = write(tmp_path / 'x')
  (tmp_path / 'x' / 'config.json').write_text(text, encoding='latin-1')
  with pytest.raises(ValueError, match=r'config\.json .*: it is damaged; get'):
    pretrained.Pretrained(folder)


def test_heads_divide_the_width(tmp_path):
  folder = write(tmp_path / 'x', CONFIG | {'num_attention_heads': 3})
  with pytest.raises(ValueError, match=r'heads divides, got 8 and 3'):
    pretrained.Pretrained(folder)


@pytest.mark.parametrize(
  ('config', 'changes', 'said'),
  [
    ({'model_type': 'gpt2'}, {}, r"model_type bert or roberta, got 'gpt2'"),
    ({'hidden_act': 'relu'}, {}, r"hidden_act gelu, got 'relu'"),
    ({'num_hidden_layers': 3}, {}, r'encoder\.layer\.2\..*missing'),
    ({'num_hidden_layers': 1}, {}, r'no parameter here .*layer\.1'),
    ({'vocab_size': 14}, {}, r'shape \(14, 8\) .*got \(13, 8\)'),
    ({}, {'adapter.weight': np.ones(2)}, r'for: adapter\.weight \(1 in'),
  ],
)
def test_what_does_not_fit_is_reported(tmp_path, config, changes, said):
  with pytest.raises(ValueError, match=said):
    loaded(write(tmp_path / 'x', CONFIG | config, arrays() | changes))


def test_what_is_missing_or_damaged_is_reported(tmp_path):
  with pytest.raises(ValueError, match=r'must name a folder with config'):
    pretrained.Pretrained(str(tmp_path))
  folder = pathlib.Path(write(tmp_path / 'x'))
  whole = (folder / 'model.safetensors').read_bytes()
  (folder / 'model.safetensors').write_bytes(whole[:-8])
  with pytest.raises(ValueError, match=r'not read as safetensors'):
    pretrained.Pretrained(str(folder))
  write(folder, {'model_type': 'bert'})
  with pytest.raises(ValueError, match=r"nothing of 'vocab_size'"):
    pretrained.Pretrained(str(folder))
  (folder / 'config.json').write_text('{')
  with pytest.raises(ValueError, match=r'is not JSON'):
    pretrained.Pretrained(str(folder))


def test_gelu_can_be_differentiated_inside_shard_map():
  """In jax 0.12, `jax.nn.gelu(approximate=False)` cannot."""
  mesh = workers.mesh_of(2)
  x = jnp.linspace(-4, 4, 16)
  slope = jax.vmap(jax.grad(bert._gelu))
  spec = jax.sharding.PartitionSpec(workers.AXIS)
  sharded = jax.shard_map(slope, mesh=mesh, in_specs=spec, out_specs=spec)
  exact = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))
  np.testing.assert_allclose(sharded(x), exact(x), rtol=1e-5, atol=1e-6)
