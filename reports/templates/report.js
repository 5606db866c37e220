// Tables that sort, filter and show groups of columns. Without this script every table is there, whole, in its order.
(() => {
  'use strict';
  const value = (row, column) => {
    const cell = row.cells[column];
    const raw = cell.dataset.value ?? cell.textContent.trim();
    return raw === '' || Number.isNaN(Number(raw)) ? raw : Number(raw);
  };

  // A column's number in the rows of the body; heads with `data-column` bear it, for some stand over several columns.
  function sort(table, head) {
    const column = Number(head.dataset.column);
    const before = head.getAttribute('aria-sort');
    const text = head.dataset.kind === 'text';
    const direction = before ? (before === 'ascending' ? 'descending' : 'ascending') : text ? 'ascending' : 'descending';
    table.querySelectorAll('[aria-sort]').forEach((other) => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', direction);
    const sign = direction === 'ascending' ? 1 : -1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === '' || b === '') return (a === '') - (b === ''); // what was not measured comes last, either way
      return sign * (typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b)));
    });
    body.append(...rows.map(([, row]) => row));
  }

  document.querySelectorAll('table.sortable').forEach((table) => {
    table.querySelectorAll('th[data-column]').forEach((head) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener('click', () => sort(table, head));
    });
  });

  document.querySelectorAll('.controls[data-table]').forEach((controls) => {
    const table = document.getElementById(controls.dataset.table);
    const status = controls.querySelector('[role=status]');
    const search = controls.querySelector('input[type=search]');
    const filter = () => {
      const words = search.value.trim().toLowerCase();
      const rows = [...table.tBodies[0].rows];
      for (const row of rows) row.hidden = !row.dataset.name.toLowerCase().includes(words);
      const shown = rows.filter((row) => !row.hidden).length;
      status.textContent = words ? `${shown} of ${rows.length} methods` : '';
    };
    search.addEventListener('input', filter);
    controls.querySelectorAll('input[data-group]').forEach((box) => {
      const show = () => table.querySelectorAll(`[data-group="${box.dataset.group}"]`).forEach((cell) => { cell.hidden = !box.checked; });
      box.addEventListener('change', show);
      show();
    });
    controls.hidden = false;
  });
})();
