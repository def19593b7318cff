"""Sample completions, before, during and after the run."""

import json

from gradlens.report import curves, history, markup

_MAX_PROMPTS = 6


def section(run: history.Run) -> str:
  """The page's section of sample completions, one fold a task."""
  folds = []
  for k, task in enumerate(run.tasks):
    texts = run.texts.get(f'samples/{task}', {})
    if texts:
      state = ' open' if not folds else ''
      folds.append(
          f'<details{state}><summary>{markup.swatch(curves.fill(k), task)}'
          f'</summary>{_table(run, task, texts)}</details>')
  body = ''.join(folds)
  if not folds:
    body = '<p class="empty">No evaluation has left samples yet.</p>'
  return markup.section(
      'Sample completions', 'The same held-out prompts at the first, the '
      'middle and the last evaluation.', body)


def _table(run: history.Run, task: str, texts: dict[int, str]) -> str:
  steps = sorted(texts)
  chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]})
  by_step = {step: _parse(run, task, step, texts[step]) for step in chosen}
  prompts = {}
  for samples in by_step.values():
    prompts |= {prompt: sample['answer'] for prompt, sample in samples.items()}
  names = ['prompt', 'reference'] + [_name(step, steps) for step in chosen]
  head = ''.join(f'<th>{name}</th>' for name in names)
  lines = []
  for prompt, answer in list(prompts.items())[:_MAX_PROMPTS]:
    cells = [_text(prompt), _text(answer)]
    cells += [_completion(by_step[step].get(prompt)) for step in chosen]
    lines.append(
        '<tr>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>')
  return ('<div class="scroll"><table class="samples"><thead><tr>'
          f'{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>')


def _parse(
    run: history.Run, task: str, step: int, text: str,
) -> dict[str, dict]:
  """Samples by prompt."""
  try:
    samples = json.loads(text)
    return {
        str(sample['prompt']): {
            'completion': sample['completion'], 'answer': sample['answer'],
            'reward': float(sample['reward'])}
        for sample in samples}
  except (ValueError, TypeError, KeyError) as e:
    raise ValueError(
        f'{run.workdir}/metrics.jsonl: samples/{task} of step {step} must be '
        'a JSON list of prompt, completion, answer and reward, not '
        f'{text[:60]!r} ({e!r}).') from e


def _name(step: int, steps: list[int]) -> str:
  when = {steps[-1]: 'last', steps[0]: 'first'}.get(step, 'middle')
  return f'{when} (step {step})'


def _completion(sample: dict | None) -> str:
  if sample is None:
    return ''
  full = ' full' if sample['reward'] >= 1 else ''
  return (f'{_text(sample["completion"])}<span class="reward{full}">'
          f'reward {sample["reward"]:.2g}</span>')


def _text(text: object) -> str:
  return f'<div class="text">{markup.escape(text)}</div>'
