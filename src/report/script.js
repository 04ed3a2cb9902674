(() => {
  const root = document.documentElement;
  const button = document.getElementById('theme');
  const kept = (value) => {
    try {
      if (value === undefined) return localStorage.getItem('modalign-theme') || 'auto';
      localStorage.setItem('modalign-theme', value);
    } catch { /* a page from a file may have no storage */ }
    return value || 'auto';
  };
  const themes = ['auto', 'light', 'dark'];
  let theme = themes.includes(kept()) ? kept() : 'auto';
  const show = () => {
    if (theme === 'auto') delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  button.hidden = false;
  button.addEventListener('click', () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    kept(theme);
    show();
  });
  show();

  const tip = document.getElementById('tip');
  const place = (x, y) => {
    const box = tip.getBoundingClientRect();
    const room = 8;
    const left = Math.min(Math.max(room, x + 14), innerWidth - box.width - room);
    const below = y + 18 + box.height < innerHeight;
    tip.style.transform = `translate(${Math.max(room, left)}px, ${below ? y + 18 : Math.max(room, y - box.height - 12)}px)`;
    tip.style.visibility = 'visible';
  };
  const hide = () => { tip.style.visibility = 'hidden'; };
  // What a place says comes as its title, for readers without scripts; two tips would be one too many.
  const says = (hit) => {
    const title = hit.querySelector('title');
    if (title) {
      hit.dataset.tip = title.textContent;
      hit.setAttribute('aria-label', title.textContent.replaceAll('\n', ', '));
      title.remove();
    }
    return hit.dataset.tip;
  };
  const cell = { row: 0, column: 0 };
  const values = (spot) => document.getElementById(spot.dataset.values).textContent.trim().split('\n');
  const spotSays = (spot) => {
    const line = values(spot)[cell.row].trim().split(/\s+/);
    const text = `row ${cell.row + 1}, column ${cell.column + 1}\n${line[cell.column]}`;
    spot.setAttribute('aria-label', text.replace('\n', ': '));
    return text;
  };
  const middle = (element) => {
    const box = element.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const spotPlace = (spot) => {
    const box = spot.getBoundingClientRect();
    const size = Number(spot.dataset.size);
    return [box.left + (cell.column + .5) * box.width / size, box.top + (cell.row + .5) * box.height / size];
  };
  const hitOf = (event) => event.target.closest?.('.hits > *');
  const point = (event) => {
    const hit = hitOf(event);
    if (!hit) return hide();
    if (hit.classList.contains('spot')) {
      const box = hit.getBoundingClientRect();
      const size = Number(hit.dataset.size);
      const at = (part) => Math.min(size - 1, Math.max(0, Math.floor(part * size)));
      cell.column = at((event.clientX - box.left) / box.width);
      cell.row = at((event.clientY - box.top) / box.height);
      tip.textContent = spotSays(hit);
    } else {
      tip.textContent = says(hit);
    }
    place(event.clientX, event.clientY);
  };
  addEventListener('pointermove', point);
  addEventListener('pointerdown', point);
  addEventListener('scroll', hide, { passive: true });
  addEventListener('focusin', (event) => {
    const hit = hitOf(event);
    if (!hit || !hit.matches(':focus-visible')) return;
    const spot = hit.classList.contains('spot');
    tip.textContent = spot ? spotSays(hit) : says(hit);
    place(...(spot ? spotPlace(hit) : middle(hit)));
  });
  addEventListener('focusout', hide);
  addEventListener('keydown', (event) => {
    if (event.key === 'Escape') return hide();
    const hit = hitOf(event);
    const step = { ArrowRight: [0, 1], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowUp: [-1, 0] }[event.key];
    if (!hit || !step) return;
    event.preventDefault();
    if (hit.classList.contains('spot')) {
      const inside = (value) => Math.min(Number(hit.dataset.size) - 1, Math.max(0, value));
      cell.row = inside(cell.row + step[0]);
      cell.column = inside(cell.column + step[1]);
      tip.textContent = spotSays(hit);
      return place(...spotPlace(hit));
    }
    const next = step[0] + step[1] > 0 ? hit.nextElementSibling : hit.previousElementSibling;
    if (!next) return;
    hit.setAttribute('tabindex', '-1');
    next.setAttribute('tabindex', '0');
    next.focus();
  });

  // Where one is, in the table of contents.
  const links = new Map([...document.querySelectorAll('nav a')].map((a) => [a.hash.slice(1), a]));
  const watch = new IntersectionObserver((all) => {
    for (const seen of all.filter((s) => s.isIntersecting)) {
      links.forEach((a) => a.classList.remove('here'));
      links.get(seen.target.id)?.classList.add('here');
    }
  }, { rootMargin: '0px 0px -70% 0px' });
  document.querySelectorAll('section[id]').forEach((section) => watch.observe(section));
})();
