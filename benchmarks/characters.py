"""A tokenizer of transformers with one token for each character."""

import tokenizers
import toy_tasks
from transformers import PreTrainedTokenizerFast


def tokenizer() -> PreTrainedTokenizerFast:
  """The numbers of `toy_tasks`."""
  words = ['<pad>', '<eos>', '<unk>', *toy_tasks.CHARACTERS]
  vocabulary = {word: i for i, word in enumerate(words)}
  inner = tokenizers.Tokenizer(
      tokenizers.models.WordLevel(vocabulary, unk_token='<unk>')
  )
  inner.pre_tokenizer = tokenizers.pre_tokenizers.Split('', 'isolated')
  inner.decoder = tokenizers.decoders.Fuse()
  return PreTrainedTokenizerFast(
      tokenizer_object=inner, pad_token='<pad>', eos_token='<eos>',
      unk_token='<unk>', padding_side='left',
  )
