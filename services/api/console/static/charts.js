// Draws tables: <div data-chart="ID OF A TABLE">. The table stays what is read; the drawing is beside it, in a place that has its size before.
"use strict";

(() => {
  const COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
  const HOUR = 3600, DAY = 24 * HOUR;
  const LABEL_PIXELS = 62;
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let drawn = [];

  const read = (table) => {
    const names = [...table.tHead.rows[0].cells].slice(1).filter((cell) => !("skip" in cell.dataset)).map((cell) => cell.textContent.trim());
    const rows = [...table.tBodies[0].rows].sort((a, b) => a.cells[0].dataset.value - b.cells[0].dataset.value);
    const columns = [rows.map((row) => Number(row.cells[0].dataset.value))];
    names.forEach((_, index) => columns.push(rows.map((row) => Number(row.cells[index + 1].dataset.value ?? 0))));
    return { names, columns };
  };

  const stacked = (columns) => {
    const sums = columns[0].map(() => 0);
    const drawn = columns.slice(1).map((values) => values.map((value, i) => (sums[i] += value)));
    return [columns[0], ...drawn.reverse()]; // the highest is drawn first, the others over it
  };

  // Every time that is drawn: those of the table, and those after it, up to the end of the range.
  const timesOf = (times, step, until) => {
    const all = [...times];
    for (let at = times.at(-1) + step; at < until; at += step) all.push(at);
    return all;
  };

  // A label under every so many of the steps that it has room: whole hours of a day, whole days.
  const labelled = (times, step, pixels) => {
    const choices = step >= DAY ? [1, 2, 4, 7, 14, 28, 91, 364] : [1, 2, 3, 6, 12, 24, 48, 168];
    const every = choices.find((count) => (count * pixels) / times.length >= LABEL_PIXELS) ?? choices.at(-1);
    const found = step >= DAY ? times.filter((_, i) => (times.length - 1 - i) % every === 0) : times.filter((at) => Math.round(at / step) % every === 0);
    return found.length ? found : [times[0]];
  };

  // What is under the pointer, beside it.
  const tip = (names, columns, locale, step) => {
    const box = document.createElement("div");
    box.className = "tip";
    box.hidden = true;
    const number = new Intl.NumberFormat(locale);
    const time = new Intl.DateTimeFormat(locale, step >= DAY ? { dateStyle: "medium", timeZone: "UTC" } : { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" });
    const line = (name, value, mark) => {
      const row = document.createElement("p");
      const said = document.createElement("b");
      said.textContent = number.format(value);
      if (mark) row.append(mark);
      row.append(`${name} `, said);
      return row;
    };
    return {
      hooks: {
        init: (u) => u.over.append(box),
        setCursor: (u) => {
          const i = u.cursor.idx;
          box.hidden = i == null || columns[0][i] === undefined;
          if (box.hidden) return;
          const title = document.createElement("strong");
          title.textContent = time.format(new Date(columns[0][i] * 1000));
          const shown = names.map((name, k) => [name, columns[k + 1][i], k]).filter(([, value]) => value || names.length === 1);
          box.replaceChildren(title, ...shown.map(([name, value, k]) => {
            const mark = document.createElement("i");
            mark.className = `mark m${(k % COLOURS.length) + 1}`;
            return line(name, value, names.length > 1 && mark);
          }));
          if (!shown.length) box.append(line("", 0));
          const left = u.cursor.left > u.over.clientWidth / 2;
          box.style.left = left ? "" : `${u.cursor.left + 12}px`;
          box.style.right = left ? `${u.over.clientWidth - u.cursor.left + 12}px` : "";
        },
      },
    };
  };

  const draw = (place) => {
    const table = document.getElementById(place.dataset.chart);
    place.replaceChildren();
    if (!table || !table.tBodies[0].rows.length) return;
    const { names, columns } = read(table);
    const bars = place.dataset.kind !== "line";
    const data = bars ? stacked(columns) : columns;
    const order = names.map((_, i) => (bars ? names.length - 1 - i : i));
    const locale = document.documentElement.lang === "en" ? "en-GB" : document.documentElement.lang;
    const compact = new Intl.NumberFormat(document.documentElement.lang, { notation: "compact", maximumFractionDigits: 2 });
    const gaps = columns[0].slice(1).map((at, i) => at - columns[0][i]);
    const step = Number(place.dataset.step) || (gaps.length ? Math.min(...gaps) : DAY);
    const times = timesOf(columns[0], step, Number(place.dataset.until));
    const label = new Intl.DateTimeFormat(locale, step >= DAY ? { day: "numeric", month: "short", timeZone: "UTC" } : { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });
    const whole = columns.slice(1).flat().every(Number.isInteger);
    const counts = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11].flatMap((n) => [n, 2 * n, 5 * n]);
    const axis = { stroke: style("--muted"), ticks: { show: false }, font: "12px system-ui, sans-serif" };
    drawn.push(new uPlot({
      width: place.clientWidth,
      height: place.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      padding: [8, 22, 0, 0],
      scales: {
        x: { time: false, range: () => [times[0] - step * 0.6, times.at(-1) + step * 0.6] },
        y: { range: (_, min, max) => [Math.min(min, 0), max > 0 ? max * 1.08 : 1] },
      },
      axes: [
        { ...axis, size: 30, grid: { show: false }, splits: (u) => labelled(times, step, u.over.clientWidth || u.width - 60), values: (_, splits) => splits.map((x) => label.format(new Date(x * 1000))) },
        { ...axis, size: 46, grid: { stroke: style("--line"), width: 1 }, ...(whole ? { incrs: counts } : {}), values: (_, splits) => splits.map((y) => compact.format(y)) },
      ],
      series: [{}, ...order.map((i) => {
        const colour = style(COLOURS[i % COLOURS.length]);
        return bars
          ? { label: names[i], stroke: colour, fill: colour, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.72, 48], radius: 0.12 }) }
          : { label: names[i], stroke: colour, width: 2, points: { show: columns[0].length < 40, size: 5, fill: colour } };
      })],
      plugins: [tip(names, columns, locale, step)],
    }, data, place));
  };

  const drawAll = () => {
    drawn.forEach((each) => each.destroy());
    drawn = [];
    document.querySelectorAll("[data-chart]").forEach(draw);
  };
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", drawAll) : drawAll();
  document.addEventListener("htmx:afterSettle", drawAll);
  document.addEventListener("themechange", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 150); });
})();
