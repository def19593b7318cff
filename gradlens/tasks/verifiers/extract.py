r"""Where in a completion the answer stands.

In this order: the last ``\boxed{...}``; the last ``<answer>...</answer>``; what
follows the last ``####``, or the last "answer is" or "answer:", to the end of
its line. A completion without any of these marks is the answer itself if it is
a single line.
"""

import re

# Longer answers are none: what compares them may take more than linear time.
MAX_ANSWER = 1000

_BOX = re.compile(r'\\f?boxed(?![a-zA-Z])\s*')
_TAGS = re.compile(r'<answer>((?:(?!</?answer>).)*)</answer>', re.DOTALL)
_AFTER = re.compile(r'####|\banswer(?: is|\s*:)(?!\w):?', re.IGNORECASE)


def answer_of(completion: str, last_line: bool = False) -> str | None:
  r"""The answer that a completion gives.

  Args:
    completion: what the model wrote.
    last_line: whether the last line is the answer of a completion of several
      lines without a mark. Otherwise it gives none.

  Returns:
    The answer without blanks around it, or None: there is none, it is empty or
    longer than `MAX_ANSWER`, or its bracket is not closed.

  >>> answer_of(r'So \boxed{\frac{1}{2}}, not \boxed{3}. Or \boxed{4}!')
  '4'
  >>> answer_of('<answer>1 + 2</answer>')
  '1 + 2'
  >>> answer_of('5 + 3 = 8\n#### 8')
  '8'
  >>> answer_of('The answer is $8$.')
  '$8$'
  >>> answer_of('8')
  '8'
  """
  answer = _marked(completion, last_line)
  if answer is None or not 0 < len(answer) <= MAX_ANSWER:
    return None
  return answer


def _marked(completion: str, last_line: bool) -> str | None:
  boxes = list(_BOX.finditer(completion))
  if boxes:
    return _bracketed(completion, boxes[-1].end())
  tags = _TAGS.findall(completion)
  if tags:
    return tags[-1].strip()
  after = list(_AFTER.finditer(completion))
  if after:
    rest = completion[after[-1].end():].strip().partition('\n')[0]
    return _bare(rest)
  lines = completion.strip().splitlines()
  if len(lines) == 1 or (lines and last_line):
    return _bare(lines[-1])
  return None


def _bracketed(text: str, start: int) -> str | None:
  """What is between the bracket at `start` and the one that closes it."""
  if text[start:start + 1] != '{':
    return None
  depth = 0
  for i in range(start, min(len(text), start + MAX_ANSWER + 2)):
    escaped = text[i - 1] == '\\'
    depth += {'{': 1, '}': -1}.get(text[i], 0) * (not escaped)
    if depth == 0 and not escaped:
      return text[start + 1:i].strip()
  return None


def _bare(line: str) -> str:
  """A line without what is no part of an answer: emphasis, a last period."""
  return line.strip().strip('*').strip().removesuffix('.').strip()
