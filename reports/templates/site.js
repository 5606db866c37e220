// Filters by model, data and method. Without this script everything is there.
(() => {
  'use strict';
  const controls = document.getElementById('filters');
  if (!controls) return;
  const status = controls.querySelector('[role=status]');
  const chosen = [...controls.querySelectorAll('select')];
  const parts = [...document.querySelectorAll('.part')];
  const filter = () => {
    for (const part of parts) {
      part.hidden = chosen.some((box) => box.value && !JSON.parse(part.dataset[box.dataset.filter]).includes(box.value));
      const method = chosen.find((box) => box.dataset.filter === 'method').value;
      for (const row of part.querySelectorAll('tr[data-method]')) {
        row.hidden = Boolean(method) && row.dataset.method !== method && row.dataset.method !== 'sft';
      }
    }
    const shown = parts.filter((part) => !part.hidden).length;
    status.textContent = chosen.some((box) => box.value) ? `${shown} of ${parts.length} shown` : '';
    document.querySelectorAll('main > section').forEach((section) => {
      section.hidden = ![...section.querySelectorAll('.part')].some((part) => !part.hidden);
    });
  };
  chosen.forEach((box) => box.addEventListener('change', filter));
  controls.hidden = false;
})();
