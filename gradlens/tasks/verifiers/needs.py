"""What a verifier needs of a record, asked before the first step."""

from gradlens.tasks.types import Record


def answer(record: Record) -> None:
  """Refuses a record without a reference answer.

  Raises:
    ValueError: it is empty.
  """
  if not record.answer.strip():
    raise ValueError(
        'it has no answer to compare with; name the column of the answers, or'
        ' another verifier'
    )


def fields(record: Record, *names: str) -> None:
  """Refuses a record whose entry lacks a field.

  Raises:
    ValueError: one sentence that names the first.
  """
  for name in names:
    if name not in record.entry:
      raise ValueError(
          f'its entry has no {name!r}; name the column of it, as'
          f' {name}=COLUMN, or another verifier'
      )
