"""Text: tokens of prompts and answers, padding, and the way back."""

from absl.testing import absltest, parameterized
import numpy as np
import tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from gradlens import tasks, text

_TOKENIZER = ByT5Tokenizer()  # a byte b is token b + 3; 1 ends a sequence


def _tokens(string):
  return [byte + 3 for byte in string.encode()]


class EncodeTest(parameterized.TestCase):

  @parameterized.parameters('7+8=', '', 'é ≤ 日')
  def test_a_prompt_is_open_and_an_answer_is_closed(self, string):
    encode = text.prompt_encoder(_TOKENIZER)
    self.assertEqual(encode(string), _tokens(string))
    self.assertEqual(
        text.encode_answer(_TOKENIZER, string), [*_tokens(string), 1]
    )

  @parameterized.parameters('7+8=', 'é ≤ 日', ' two  blanks ')
  def test_decoding_inverts_encoding(self, string):
    tokens, mask = text.pad(
        [text.encode_answer(_TOKENIZER, string)], 20, left=False
    )
    tokens[~mask] = 70  # what is masked is not read
    self.assertEqual(text.decode(_TOKENIZER, tokens[0], mask[0]), string)

  def test_bytes_that_are_no_text_are_left_out(self):
    tokens = np.array([*_tokens('a'), 0xE2 + 3, 300, *_tokens('b')])
    self.assertEqual(
        text.decode(_TOKENIZER, tokens, np.ones(4, bool)), 'ab'
    )


def _words(**options):
  """A tokenizer of whole words, that may begin its texts, and may chat."""
  words = ['<s>', '</s>', '<user>', '<system>', '<reply>', 'be', 'brief', 'hi']
  vocabulary = {word: i for i, word in enumerate(words)}
  inner = tokenizers.Tokenizer(
      tokenizers.models.WordLevel(vocabulary, unk_token='</s>')
  )
  inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  if options.pop('begins', False):
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single='<s> $A', special_tokens=[('<s>', 0)]
    )
  return PreTrainedTokenizerFast(
      tokenizer_object=inner, bos_token='<s>', eos_token='</s>', **options
  )


# As published templates do: roles are marked, and a reply may be asked for.
_TEMPLATE = (
    '<s> {% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}'
    '{% if add_generation_prompt %}<reply>{% endif %}'
)


class PromptEncoderTest(absltest.TestCase):

  def test_a_text_begins_as_the_tokenizer_has_it(self):
    # Llama and Gemma begin with a token, Qwen does not, though it has one.
    self.assertEqual(text.prompt_encoder(_words(begins=True))('hi'), [0, 7])
    self.assertEqual(text.prompt_encoder(_words())('hi'), [7])

  def test_chat(self):
    # The template writes the beginning itself: it must not come twice.
    words = _words(begins=True, chat_template=_TEMPLATE)
    self.assertEqual(
        text.prompt_encoder(words, chat=True)('hi'), [0, 2, 7, 4]
    )
    encode = text.prompt_encoder(words, chat=True, system='be brief')
    self.assertEqual(encode('hi hi'), [0, 3, 5, 6, 2, 7, 7, 4])

  def test_a_chat_needs_a_template(self):
    with self.assertRaisesRegex(ValueError, 'prompt.chat=True needs a chat te'):
      text.prompt_encoder(_words(), chat=True)

  def test_a_system_needs_a_chat(self):
    with self.assertRaisesRegex(ValueError, "system='be brief' belongs to a c"):
      text.prompt_encoder(_words(), system='be brief')


class PadTest(absltest.TestCase):

  def test_left(self):
    tokens, mask = text.pad([[5, 6], [], [7, 8, 9]], 3, left=True)
    np.testing.assert_array_equal(tokens, [[0, 5, 6], [0, 0, 0], [7, 8, 9]])
    np.testing.assert_array_equal(mask, [[0, 1, 1], [0, 0, 0], [1, 1, 1]])
    self.assertEqual((tokens.dtype, mask.dtype), (np.int32, bool))

  def test_right(self):
    tokens, mask = text.pad([[5, 6], [], [7, 8, 9]], 3, left=False)
    np.testing.assert_array_equal(tokens, [[5, 6, 0], [0, 0, 0], [7, 8, 9]])
    np.testing.assert_array_equal(mask, [[1, 1, 0], [0, 0, 0], [1, 1, 1]])

  def test_what_is_too_long_is_never_cut(self):
    for length in (4, 6, 7):  # one more than fits, twice as many, more
      for left in (True, False):
        with self.assertRaises(ValueError):
          text.pad([list(range(length))], 3, left=left)


class WithoutLongTest(absltest.TestCase):

  def drop(self, train, heldout, limit=4):
    records = [
        [tasks.Record(p, '1', {}) for p in own] for own in (train, heldout)
    ]
    task = text.without_long(
        text.prompt_encoder(_TOKENIZER), tasks.Task('sums', *records, None),
        limit,
    )
    return [[r.prompt for r in own] for own in (task.train, task.heldout)]

  def test_what_fits_stays_in_order(self):
    with self.assertLogs('gradlens.text', 'WARNING') as logs:
      kept = self.drop(['1+1=', '17+8=', '3+4='], ['5+5=', '日本'])
    self.assertEqual(kept, [['1+1=', '3+4='], ['5+5=']])
    self.assertLen(logs.output, 2)
    self.assertIn('sums: 1 of 3 training prompts are dropped', logs.output[0])
    self.assertIn('sums: 1 of 2 held-out prompts', logs.output[1])

  def test_nothing_is_said_where_nothing_is_dropped(self):
    with self.assertNoLogs('gradlens.text', 'WARNING'):
      self.assertEqual(self.drop(['1+1='], ['2+2=']), [['1+1='], ['2+2=']])

  def test_a_side_that_would_be_empty_is_refused(self):
    with self.assertRaisesRegex(
        ValueError, "'sums': of 2 held-out prompts none .*max_prompt_tokens=4"
    ):
      self.drop(['1+1='], ['17+8=', '12+1='])


class CheckLengthsTest(parameterized.TestCase):

  def check(self, records, prompt=4, answer=3):
    text.check_lengths(
        text.prompt_encoder(_TOKENIZER), _TOKENIZER, 'sums',
        [tasks.Record(*r, {}) for r in records],
        max_prompt_tokens=prompt, max_new_tokens=answer,
    )

  def test_what_fits_exactly_passes(self):
    self.check([('7+8=', '15'), ('1+1=', '2')])

  @parameterized.parameters(
      ('17+8=', '25', "prompt '17.8=' has 5 .*rollout.max_prompt_tokens=4"),
      # With the stop token the answer has a token more than it has bytes.
      ('99+1', '100', "answer '100' has 4 .*rollout.max_new_tokens=3"),
  )
  def test_what_does_not_is_named(self, prompt, answer, message):
    with self.assertRaisesRegex(ValueError, f"task 'sums': {message}"):
      self.check([('1+1=', '2'), (prompt, answer), ('2+2=', '4')])

  def test_a_prompt_without_tokens_is_named(self):
    with self.assertRaisesRegex(ValueError, "task 'sums': a prompt has no"):
      self.check([('1+1=', '2'), ('', '2')])

  def test_tokens_count_and_not_characters(self):
    # Two characters of three bytes each, shorter than four of one byte.
    with self.assertRaisesRegex(ValueError, "prompt '日本' has 6 tokens"):
      self.check([('7+8=', '15'), ('日本', '2')])


if __name__ == '__main__':
  absltest.main()
